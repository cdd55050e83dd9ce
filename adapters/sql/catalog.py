"""Configuration as the tables hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Table, select
from sqlalchemy.exc import IntegrityError

from adapters.sql.engine import Database
from adapters.sql.projection import clean
from adapters.sql.tables import (
    banks,
    cases,
    defect_types,
    manuals,
    model_parameters,
    products,
    search_history,
)
from pipeline.errors import ConflictError
from schemas.subject import rfc3339_ms

# A plant has some dozens; this only bounds the answer.
_PRODUCTS = 2000


def _table(kind: str) -> tuple[Table, Column[Any]]:
    """Return the table of a kind and the column that `row_id` names in it."""
    return {
        "banks": (banks, banks.c.version),
        "cases": (cases, cases.c.case_id),
        "manuals": (manuals, manuals.c.manual_id),
    }[kind]


class SqlCatalog:
    """`Catalog` on SQLite or PostgreSQL."""

    def __init__(self, database: Database) -> None:
        """Read and write through `database`."""
        self._database = database

    async def products(self) -> Sequence[dict[str, Any]]:
        """All products that were not removed, by code."""
        found = (
            select(products.c.payload)
            .where(~products.c.removed)
            .order_by(products.c.product)
            .limit(_PRODUCTS)
        )
        return await self._database.read(lambda connection: connection.scalars(found).all())

    async def product(self, code: str) -> dict[str, Any] | None:
        """One product's newest record, None if unknown or removed."""
        found = select(products.c.payload).where(products.c.product == code, ~products.c.removed)
        record: dict[str, Any] | None = await self._database.read(
            lambda connection: connection.scalar(found)
        )
        return record

    async def revisions(self, code: str) -> Sequence[dict[str, Any]]:
        """Every record that a product ever had, newest first."""
        found = (
            select(model_parameters.c.payload)
            .where(model_parameters.c.product == code)
            .order_by(model_parameters.c.revision.desc())
        )
        return await self._database.read(lambda connection: connection.scalars(found).all())

    async def rows(
        self,
        kind: str,
        product: str | None = None,
        *,
        row_id: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> Sequence[dict[str, Any]]:
        """`banks`, `cases`, `manuals` or `defect_types`, newest first (port `Catalog`)."""
        if kind == "defect_types":
            return await self._defect_types(product, row_id, limit, offset)
        table, key = _table(kind)
        conditions: list[ColumnElement[bool]] = [~table.c.removed]
        if product is not None:
            conditions.append(table.c.product == product)
        if row_id is not None:
            conditions.append(key == row_id)
        found = (
            select(table.c.payload)
            .where(*conditions)
            .order_by(table.c.occurred_at.desc(), key)
            .limit(limit)
            .offset(offset)
        )
        return await self._database.read(lambda connection: connection.scalars(found).all())

    async def _defect_types(
        self, product: str | None, code: str | None, limit: int, offset: int
    ) -> Sequence[dict[str, Any]]:
        found = select(defect_types).order_by(defect_types.c.created_at.desc(), defect_types.c.code)
        if product is not None:
            found = found.where(defect_types.c.product == product)
        if code is not None:
            found = found.where(defect_types.c.code == code)
        page = found.limit(limit).offset(offset)
        rows = await self._database.read(lambda connection: connection.execute(page).all())
        return [{**row._asdict(), "created_at": rfc3339_ms(row.created_at)} for row in rows]

    async def add_defect_type(self, product: str, defect_type: Mapping[str, str]) -> None:
        """Add a defect type: `code`, `name_ko`, `name_en` (port `Catalog`)."""
        row = {name: clean(defect_type[name]) for name in ("code", "name_ko", "name_en")}
        added = defect_types.insert().values(product=product, created_at=datetime.now(UTC), **row)

        def work(connection: Connection) -> None:
            connection.execute(added)

        try:
            await self._database.write(work)
        except IntegrityError:
            raise ConflictError(
                f"{product} has a defect type of that code or name already; choose another"
            ) from None

    async def note_search(self, entry: Mapping[str, Any]) -> None:
        """Keep one line of search history."""
        hits = entry.get("hits")
        noted = search_history.insert().values(
            searched_at=datetime.now(UTC),
            product=entry.get("product"),
            image_id=entry.get("image_id"),
            hits=hits if isinstance(hits, int) else None,
            entry=dict(entry),
        )

        def work(connection: Connection) -> None:
            connection.execute(noted)

        await self._database.write(work)
