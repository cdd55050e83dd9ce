"""The prepared INSERT of each kind of row: what happens when the row is already there."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Table, bindparam, exists, literal_column, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import Insert

from adapters.sql import tables as t
from adapters.sql.projection import Name


def insert(dialect: str, table: Table) -> Any:
    """Return the dialect's INSERT, which knows ON CONFLICT (both dialects spell it alike)."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


# Rows of which the first wins.
_FACTS: dict[Name, Table] = {
    "image": t.images,
    "inspection": t.inspections,
    "review": t.reviews,
    "dead_letter": t.dead_letters,
    "response": t.response_history,
    "model_parameters": t.model_parameters,
}
# Rows of which the newest wins, by occurred_at.
_STATES: dict[Name, Table] = {"bank": t.banks, "case": t.cases, "manual": t.manuals}

_IMAGE_OF_UPLOAD = (
    "state", "label", "subject", "upload_event_id", "upload_at", "is_quiet", "purpose",
    "captured_at", "received_at", "received_slot",
)  # fmt: skip


@cache
def statement(dialect: str, name: Name) -> Insert:
    """Return the statement of a name, the same object each time, so that it compiles once."""
    if name in _FACTS:
        table = _FACTS[name]
        built = insert(dialect, table).values(_bound(table, name))
        return _as_insert(built.on_conflict_do_nothing())
    if name in _STATES:
        return _as_insert(_newest_wins(dialect, _STATES[name]))
    special = {"upload": _upload, "product": _product, "deployment": _deployment}
    return _as_insert(special[name](dialect))


def _as_insert(built: Any) -> Insert:
    assert isinstance(built, Insert)
    return built


# Filled from the facts by adapters/sql/summaries.py, never by an event's own row.
_SUMMARY = frozenset(
    {
        "status", "verdict", "embedded_id", "scored_id", "explained_id", "decision",
        "defect_type", "acknowledged_id", "acknowledged_by", "acknowledged_at", "is_open_alarm",
    }
)  # fmt: skip


# What becomes of a dead letter later (adapters/sql/letters.py).
_FATE = frozenset({"returned_as", "replayed_at", "resolved_by", "resolved_at"})


def _bound(table: Table, name: str) -> dict[str, Any]:
    skipped = _FATE if name == "dead_letter" else frozenset[str]()
    if name in {"image", "upload"}:
        skipped = _SUMMARY
    return {c.name: bindparam(c.name, type_=c.type) for c in table.c if c.name not in skipped}


def _upload(dialect: str) -> Any:
    """The first upload of an image wins; it fills what a reserved or a result's row lacks."""
    built = insert(dialect, t.images).values(_bound(t.images, "upload"))
    return built.on_conflict_do_update(
        index_elements=[t.images.c.image_id],
        set_={name: built.excluded[name] for name in _IMAGE_OF_UPLOAD},
        where=or_(t.images.c.state == "storing", t.images.c.upload_event_id.is_(None)),
    )


def _newest_wins(dialect: str, table: Table) -> Any:
    built = insert(dialect, table).values(_bound(table, table.name))
    keys = [column.name for column in table.primary_key.columns]
    return built.on_conflict_do_update(
        index_elements=keys,
        set_={c.name: built.excluded[c.name] for c in table.c if c.name not in keys},
        where=table.c.occurred_at < built.excluded.occurred_at,
    )


def _product(dialect: str) -> Any:
    built = insert(dialect, t.products).values(_bound(t.products, "product"))
    return built.on_conflict_do_update(
        index_elements=[t.products.c.product],
        set_={c.name: built.excluded[c.name] for c in t.products.c if c.name != "product"},
        where=t.products.c.revision < built.excluded.revision,
    )


def _deployment(dialect: str) -> Any:
    """A bank is deployed when the product's newest revision did not name it yet."""
    table = t.deployment_logs
    values = [bindparam(c.name, type_=c.type) for c in table.c]
    current = t.products.c
    deployed = exists().where(
        current.product == bindparam("product", type_=table.c.product.type),
        or_(
            current.active_bank == bindparam("bank_version", type_=table.c.bank_version.type),
            current.revision >= bindparam("revision", type_=table.c.revision.type),
        ),
    )
    source = select(*values).select_from(select(literal_column("1")).subquery("one"))
    built = insert(dialect, table).from_select([c.name for c in table.c], source.where(~deployed))
    return built.on_conflict_do_nothing()
