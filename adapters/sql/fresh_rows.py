"""What this process appended a moment ago, for its relay: a look into the table saved per image.

The table stays the only truth. A row is handed over only if, in the transaction that wrote it, no
other row waited before it, so that it overtakes nothing; whatever is in doubt, the table is asked.
That argument needs writers that come one after the other, as SQLite's do: PostgreSQL gives out
ids before it commits, and a row with a smaller id may appear later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipeline.ports import OutboxRow


class FreshRows:
    """The rows of the last append, until the relay has had them. Pure, but for the event loop's."""

    def __init__(self) -> None:
        """Know nothing; only a holder of the relay's lease gets rows from here."""
        self._is_relay = False
        self._rows: Sequence[OutboxRow] = ()
        self._given_to = -1

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep rows while this process is the relay; what another one did meanwhile is unknown."""
        self._is_relay, self._rows, self._given_to = True, (), -1
        try:
            yield
        finally:
            self._is_relay, self._rows = False, ()

    def note(self, rows: Sequence[OutboxRow]) -> None:
        """Keep rows that were written when nothing waited before them.

        Those that the table gave already, to a relay that was faster than this call, are left out.
        """
        if self._is_relay and rows and rows[0].row_id > self._given_to:
            self._rows = rows

    def take(self, limit: int, max_bytes: int) -> Sequence[OutboxRow]:
        """Return the oldest rows that wait, or nothing where only the table knows."""
        rows, self._rows = self._rows, ()
        if len(rows) > limit or sum(len(row.message.value or b"") for row in rows) > max_bytes:
            return ()
        self.gave(rows)
        return rows

    def gave(self, rows: Sequence[OutboxRow]) -> None:
        """Note what the relay has got; what is kept from before is in it, or comes after it."""
        if rows:
            # Not the largest ever: SQLite counts from 1 again when the table was emptied.
            self._given_to = rows[-1].row_id
            if self._rows and self._rows[0].row_id <= self._given_to:
                self._rows = ()
