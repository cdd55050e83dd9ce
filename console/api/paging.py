"""Cursors of lists that are paged by number of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Query

from pipeline.errors import RefusedError

Limit = Annotated[int, Query(ge=1, le=500)]
Cursor = Annotated[str | None, Query(max_length=300)]


def offset_of(cursor: str | None) -> int:
    """Return the place that a cursor names, the start for none.

    Raises:
        RefusedError: 422 `bad_cursor`.
    """
    if cursor is None:
        return 0
    if not cursor.isdecimal() or len(cursor) > 12:
        raise RefusedError(422, "bad_cursor", "leave `cursor` out or pass `next_cursor` back")
    return int(cursor)


def page_of(
    field: str, rows: Sequence[dict[str, Any]], *, offset: int, limit: int
) -> dict[str, Any]:
    """Return a page from rows fetched with `limit + 1`: its items and the next cursor."""
    more = len(rows) > limit
    return {field: list(rows[:limit]), "next_cursor": str(offset + limit) if more else None}
