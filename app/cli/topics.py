"""`lineside topics apply|list`."""

from __future__ import annotations

import asyncio
import json

import click

from adapters.kafka.admin import open_admin
from app.cli.output import table
from app.resources import bootstrap_servers, kafka_connection, migrate_tables
from app.settings import Settings, read_settings
from schemas.topics import DAY_MS, TOPICS

# Enough for a dozen replicas of a stage; more can be added, never taken away.
PARTITIONS = 12


@click.group("topics")
def topics() -> None:
    """Create and list the topics."""


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


COMMANDS = {"topics": topics}
