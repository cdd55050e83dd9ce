"""Headers that a record carries when it was put back from a dead letter, after its own."""

from __future__ import annotations

from schemas.message import Headers, Record

# event_id of the dead letter.
REPLAY_OF = "x-replay-of"
# The replay that put it back; with the letter it names this one return of the record.
REPLAY_RUN = "x-replay-run"
# The stage that buried it and is to settle it now. Always the last header: the worker looks there.
REPLAY_STAGE = "x-replay-stage"

_ALL = frozenset({REPLAY_OF, REPLAY_RUN, REPLAY_STAGE})


def own_headers(headers: Headers) -> Headers:
    """Return the headers that the record had before any replay."""
    return tuple(header for header in headers if header[0] not in _ALL)


def replay_headers(headers: Headers, *, letter_id: str, run_id: str, stage: str) -> Headers:
    """Return a record's own headers with those of one replay behind them."""
    return (
        *own_headers(headers),
        (REPLAY_OF, letter_id.encode()),
        (REPLAY_RUN, run_id.encode()),
        (REPLAY_STAGE, stage.encode()),
    )


def is_replay_header(name: str) -> bool:
    """Whether a header tells of a replay."""
    return name in _ALL


def is_for_another_stage(record: Record, stage: str) -> bool:
    """Whether a record was put back for another stage; all others have settled it before."""
    headers = record.headers
    return bool(headers) and headers[-1][0] == REPLAY_STAGE and headers[-1][1] != stage.encode()
