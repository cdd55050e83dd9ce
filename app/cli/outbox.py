"""`lineside outbox list|retry`."""

from __future__ import annotations

import asyncio
import json

import click

from adapters.sql.engine import open_database
from adapters.sql.outbox import SqlOutbox
from app.cli.output import table
from app.logs import note_act
from app.settings import Settings, read_settings
from pipeline.errors import ConfigError
from pipeline.housekeeping import RefusedRow
from schemas.topics import TOPICS

# More are shown with another --limit; a person decides on each kind, not on each row.
_LIMIT = 10_000


@click.group("outbox")
def outbox() -> None:
    """Events that the broker's limits refused: they were set aside and wait for a decision."""


@outbox.command("list")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_rows(*, limit: int, as_json: bool) -> None:
    """List what was set aside, oldest first, and why."""
    rows = asyncio.run(_refused(read_settings(), limit))
    if as_json:
        told = [row._asdict() | {"created_at": row.created_at.isoformat()} for row in rows]
        click.echo(json.dumps({"refused": told}, ensure_ascii=False))
        return
    table(
        ["row", "topic", "key", "bytes", "written", "why"],
        [
            [row.row_id, row.topic, row.key, row.size_bytes,
             row.created_at.isoformat(timespec="seconds"), row.reason]
            for row in rows
        ],
    )  # fmt: skip
    if rows:
        click.echo("raise the limit that is named, then: lineside outbox retry ROW… or --all")
    else:
        click.echo("nothing was set aside")


@outbox.command("retry")
@click.argument("row_ids", metavar="ROW…", nargs=-1, type=int)
@click.option("--all", "everything", is_flag=True, help="All that were set aside.")
def retry(*, row_ids: tuple[int, ...], everything: bool) -> int:
    """Let the relay publish rows after all, once the broker takes them.

    They go out under their old ids, so nothing is done twice; but they come after what was
    published of their key since. What only the newest may stand for, such as a product's
    settings, is therefore not sent late: make that change again instead.
    """
    if bool(row_ids) == everything:
        raise click.UsageError("name rows, or --all; to see them: lineside outbox list")
    return asyncio.run(_retry(read_settings(), row_ids, everything=everything))


async def _refused(settings: Settings, limit: int) -> list[RefusedRow]:
    async with open_database(settings.database_url) as database:
        return list(await SqlOutbox(database, source="/lineside/cli").refused_rows(limit))


async def _retry(settings: Settings, row_ids: tuple[int, ...], *, everything: bool) -> int:
    async with open_database(settings.database_url) as database:
        held = SqlOutbox(database, source="/lineside/cli")
        rows = {row.row_id: row for row in await held.refused_rows(_LIMIT)}
        unknown = sorted(set(row_ids) - rows.keys())
        if unknown:
            names = ", ".join(map(str, unknown))
            raise ConfigError(f"row {names}: not set aside; to see what is: lineside outbox list")
        chosen = list(rows) if everything else sorted(set(row_ids))
        state = {name for name, topic in TOPICS.items() if topic.compacted}
        late = [one for one in chosen if rows[one].topic in state]
        if late and not everything:
            row = rows[late[0]]
            raise ConfigError(
                f"row {row.row_id}: {row.topic} keeps the newest of {row.key} alone, which this "
                "may no longer be; make the change again instead"
            )
        chosen = [one for one in chosen if one not in late]
        count = await held.put_back(chosen)
    for one in chosen:
        row = rows[one]
        act = {"action": "outbox_row_retried", "row_id": one, "event_id": row.event_id}
        note_act(settings.state_dir, {**act, "topic": row.topic, "key": row.key})
    click.echo(f"{count} events go to the relay again; lineside outbox list shows what comes back")
    if late:
        click.echo(
            f"{len(late)} stay, since only the newest of their key may stand: make them anew"
        )
    return 0


COMMANDS = {"outbox": outbox}
