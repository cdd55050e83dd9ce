"""`lineside topics apply|list`."""

from __future__ import annotations

import asyncio
import json

import click

from adapters.kafka.admin import apply_topics
from app.cli.output import table
from app.resources import bootstrap_servers, kafka_connection
from app.settings import read_settings
from schemas.topics import DAY_MS, TOPICS


@click.group("topics")
def topics() -> None:
    """Create and list the topics."""


@topics.command("apply")
def apply() -> None:
    """Create the missing topics and correct the settings of the others."""
    settings = read_settings()
    connection = kafka_connection(settings, bootstrap_servers(settings))
    changes = asyncio.run(
        apply_topics(
            connection,
            partitions=settings.kafka.partitions or 12,
            replication_factor=settings.kafka.replication_factor,
        )
    )
    click.echo(f"topics are as the table says: {changes}")


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
