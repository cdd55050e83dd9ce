"""Configuration in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from adapters.memory.tables import MemoryTables, as_json
from pipeline.errors import ConflictError
from schemas.configuration import (
    BankPublished,
    CaseRegistered,
    ManualPublished,
    ProductConfigured,
)
from schemas.event import Event
from schemas.subject import rfc3339_ms

_KINDS: dict[str, tuple[type[Event], str]] = {
    "banks": (BankPublished, "version"),
    "cases": (CaseRegistered, "case_id"),
    "manuals": (ManualPublished, "manual_id"),
}


class MemoryCatalog:
    """`Catalog` over `MemoryTables`."""

    def __init__(self, tables: MemoryTables) -> None:
        """Read and write `tables`."""
        self._tables = tables

    async def products(self) -> Sequence[dict[str, Any]]:
        """All products that were not removed, by code."""
        return sorted(self._rows(ProductConfigured), key=lambda row: str(row["product"]))

    async def product(self, code: str) -> dict[str, Any] | None:
        """One product's newest record, None if unknown or removed."""
        found = (row for row in self._rows(ProductConfigured) if row["product"] == code)
        return next(found, None)

    def _rows(self, kind: type[Event]) -> list[dict[str, Any]]:
        states = self._tables.states.items()
        rows = [as_json(event) for (type_, _), event in states if type_ is kind]
        return [row for row in rows if not row["removed"]]

    async def rows(
        self,
        kind: str,
        product: str | None = None,
        *,
        row_id: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> Sequence[dict[str, Any]]:
        """`banks`, `cases`, `manuals` or `defect_types`, newest first."""
        if kind == "defect_types":
            rows, key, newest = list(self._tables.defect_types), "code", "created_at"
        else:
            event_type, key = _KINDS[kind]
            rows, newest = self._rows(event_type), "occurred_at"
        found = [
            row for row in rows if product in {None, row["product"]} and row_id in {None, row[key]}
        ]
        found.sort(key=lambda row: str(row[key]))
        found.sort(key=lambda row: str(row[newest]), reverse=True)
        return found[offset : offset + limit]

    async def add_defect_type(self, product: str, defect_type: Mapping[str, str]) -> None:
        """Add a defect type: `code`, `name_ko`, `name_en`."""
        row = {name: defect_type[name] for name in ("code", "name_ko", "name_en")}
        for known in self._tables.defect_types:
            if known["product"] == product and any(known[name] == row[name] for name in row):
                raise ConflictError
        created_at = rfc3339_ms(datetime.now(UTC))
        self._tables.defect_types.append({"product": product, **row, "created_at": created_at})

    async def note_search(self, entry: Mapping[str, Any]) -> None:
        """Keep one line of search history."""
        self._tables.searches.append(dict(entry))
