"""`lineside topics apply|list|reset-group`."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple

import click

from adapters.kafka.admin import open_admin
from app.cli.output import table
from app.logs import note_act
from app.resources import bootstrap_servers, kafka_connection, migrate_tables
from app.settings import Settings, read_settings
from pipeline.errors import ConfigError
from schemas.message import TopicPartition
from schemas.topics import DAY_MS, STAGES, TOPICS, triggers_of

# Enough for a dozen replicas of a stage; more can be added, never taken away.
PARTITIONS = 12


class Move(NamedTuple):
    """A partition's position before, None for none, and after."""

    place: TopicPartition
    position: int | None
    target: int

    def as_json(self) -> dict[str, Any]:
        """As the log tells it."""
        topic, partition = self.place
        return {"topic": topic, "partition": partition, "from": self.position, "to": self.target}


@click.group("topics")
def topics() -> None:
    """Topics: create and list them, and move a stage on whose position the log lost."""


@topics.command("apply")
@click.option("--with-tables", is_flag=True, help="Migrate the database too.")
def apply(*, with_tables: bool) -> None:
    """Create the missing topics; say what differs in the others."""
    asyncio.run(_apply(read_settings(), with_tables=with_tables))


async def _apply(settings: Settings, *, with_tables: bool) -> None:
    async with open_admin(kafka_connection(settings, bootstrap_servers(settings))) as admin:
        report = await admin.apply_topics(
            partitions=settings.kafka.partitions or PARTITIONS,
            replication_factor=settings.kafka.replication_factor,
        )
    for name in report.created:
        click.echo(f"created {name}")
    for line in (*report.extended, *report.drift):
        click.echo(line)
    if with_tables:
        await migrate_tables(settings)
        click.echo("tables are at this version")


@topics.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_topics(*, as_json: bool) -> None:
    """Show the table: topic, event, how long it is kept, who makes and who reads it."""
    rows = [
        {
            "topic": topic.name,
            "event": topic.event.type_name,
            "kept": "compacted"
            if topic.retention_ms is None
            else f"{topic.retention_ms / DAY_MS:g} d",
            "key": topic.key_name,
            "producers": topic.producers,
            "consumers": topic.consumers,
        }
        for topic in TOPICS.values()
    ]
    if as_json:
        click.echo(json.dumps({"topics": rows}))
        return
    table(
        ["topic", "event", "kept", "from", "to"],
        [
            [r["topic"], r["event"], r["kept"], " ".join(r["producers"]), " ".join(r["consumers"])]
            for r in rows
        ],
    )


@topics.command("reset-group")
@click.argument("stage", type=click.Choice(STAGES))
@click.option(
    "--to",
    "target",
    type=click.Choice(["start", "end"]),
    required=True,
    help="Where the log begins, or where it ends.",
)
@click.option("--all", "everything", is_flag=True, help="Also partitions whose position is good.")
@click.option("--yes", is_flag=True, help="Do it; without, only show what would be done.")
def reset_group(*, stage: str, target: str, everything: bool, yes: bool) -> int:
    """Let a stage go on whose position the log no longer holds.

    A stage stops when records were deleted before it had processed them. This moves it on; the
    web role's reconciler then brings back the images that it missed.
    """
    return asyncio.run(
        _reset_group(read_settings(), stage, to_end=target == "end", everything=everything, yes=yes)
    )


async def _reset_group(
    settings: Settings, stage: str, *, to_end: bool, everything: bool, yes: bool
) -> int:
    group = f"lineside.{stage}"
    async with open_admin(kafka_connection(settings, bootstrap_servers(settings))) as admin:
        known = await admin.committed(group, triggers_of(stage))
        ranges = await admin.log_ranges(triggers_of(stage))
        moves = [
            Move(place, known.get(place), held.end if to_end else held.start)
            for place, held in sorted(ranges.items())
            if everything or not held.start <= known.get(place, held.start) <= held.end
        ]
        if not moves:
            click.echo(f"{group} stands inside the log everywhere; nothing to do (see --all)")
            return 0
        table(
            ["topic", "partition", "position", "would move to" if not yes else "moves to"],
            [[m.place.topic, m.place.partition, m.position, m.target] for m in moves],
        )
        if not yes:
            click.echo("nothing was changed; add --yes to do it")
            return 0
        if everything and await admin.members(group):
            raise ConfigError(f"{group} is at work; stop its workers before moving all of it")
        await admin.move_group(group, {move.place: move.target for move in moves})
    for move in moves:
        note_act(settings.state_dir, {"action": "group_moved", "group": group, **move.as_json()})
    click.echo(f"{group} moved in {len(moves)} partitions")
    return 0


COMMANDS = {"topics": topics}
