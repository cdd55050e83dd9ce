"""`lineside replay`: any stretch of a topic through a chosen stage version, beside what is live."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

import click

from app.cli.moments import Moment
from app.cli.output import progress_bars, table
from app.replay.request import (
    STAGES,
    Request,
    Version,
    choose_stage,
    read_offsets,
)
from app.replay.side import checked_name
from app.settings import Settings, read_settings
from schemas.subject import rfc3339_ms

Json = dict[str, Any]

INTERRUPTED = 130
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group("replay", invoke_without_command=True)
@click.option("--topic", default="images.uploaded", show_default=True, help="What to read.")
@click.option("--stage", type=click.Choice(STAGES), help="What to run; where several read it.")
@click.option("--into", help="Name of the replay; its topic is replays.NAME.")
@click.option("--append", is_flag=True, help="Add to an existing replay of the same version.")
@click.option("--since", type=Moment(), help="RFC 3339, a date, or how long ago (2h, 7d).")
@click.option("--until", type=Moment(), help="As --since; not included.")
@click.option("--product", help="Only this product.")
@click.option("--partition", "partitions", multiple=True, type=int, help="Only these partitions.")
@click.option("--from-offset", multiple=True, metavar="P:OFFSET", help="Where to begin.")
@click.option("--to-offset", multiple=True, metavar="P:OFFSET", help="Where to end, not included.")
@click.option("--bank", help="anomaly: version of a published bank; the active one by default.")
@click.option(
    "--threshold", type=click.FloatRange(min=0, min_open=True), help="anomaly: in place of its own."
)
@click.option("--revision", type=click.IntRange(min=1), help="anomaly: the product's settings.")
@click.option("--model", "--backbone", help="Network or language model; the set one by default.")
@click.option("--every", is_flag=True, help="Also what sender or policy leave out.")
@click.option("--limit", type=click.IntRange(min=1), help="Most events to work through.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Most events a second.")
@_JSON
@click.pass_context
def replay(context: click.Context, /, *, as_json: bool, **options: Any) -> int:
    """Run a stretch of a topic through a stage, into a topic of its own.

    Groups, tables, live objects and the search index stay as they are.
    """
    if context.invoked_subcommand is not None:
        return 0
    settings = read_settings()
    request = _request(options)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    with progress_bars(quiet=as_json) as bars:
        summary = _run(settings, request, bars.reporter(request.name))
    if summary is None:
        click.echo("interrupted before anything was replayed", err=True)
        return INTERRUPTED
    if as_json:
        click.echo(json.dumps(summary, ensure_ascii=False))
    else:
        _show(summary, _command_to_go_on(options, summary))
    if summary["error"]:
        return 1
    return INTERRUPTED if summary["interrupted"] else 0


def _request(options: Json) -> Request:
    """Read the command line.

    Raises:
        UsageError: an offset is none.
        ConfigError: the stage, the topic or the name cannot be.
    """
    if options["into"] is None:
        raise click.UsageError("name the replay with --into NAME (or see --help)")
    version = Version(
        options["bank"],
        options["threshold"],
        options["revision"],
        options["model"],
        options["every"],
    )
    return Request(
        checked_name(options["into"]),
        choose_stage(options["topic"], options["stage"]),
        options["topic"],
        _unix_ms(options["since"]),
        _unix_ms(options["until"]),
        options["product"],
        options["limit"],
        options["rate"],
        options["append"],
        version,
        _offsets("--from-offset", options["from_offset"]),
        _offsets("--to-offset", options["to_offset"]),
        frozenset(options["partitions"]),
    )


def _unix_ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


def _offsets(name: str, texts: tuple[str, ...]) -> dict[int, int]:
    try:
        return read_offsets(texts)
    except ValueError as error:
        raise click.UsageError(f"{name}: {error}, such as 0:1200") from None


def _run(settings: Settings, request: Request, tell: Callable[..., None]) -> Json | None:
    """Run the replay; None when it was interrupted before it began."""
    from app.replay.run import Replay  # noqa: PLC0415 - brings every client

    async def work() -> Json:
        running = Replay(settings, request, tell)
        task = asyncio.ensure_future(running.run())

        def interrupt() -> None:
            # A second signal, or one before the first event, ends it where it stands.
            if running.stop.is_set() or not running.has_begun:
                task.cancel()
            running.stop.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt)
        return await task

    try:
        return asyncio.run(work())
    except asyncio.CancelledError:
        return None


def _command_to_go_on(options: Json, summary: Json) -> str:
    """Return what to type for the rest of an interrupted replay.

    Times are written out, since `2h` ago is another moment by then.
    """
    words = ["lineside", "replay"]
    left = None if options["limit"] is None else max(1, options["limit"] - summary["processed"])
    for name, value in {**options, "limit": left}.items():
        option = "--partition" if name == "partitions" else f"--{name.replace('_', '-')}"
        if name in {"append", "from_offset"} or value is None or value is False:
            continue
        if isinstance(value, tuple):
            words += [word for one in value for word in (option, str(one))]
        elif value is True:
            words.append(option)
        else:
            words += [option, rfc3339_ms(value) if isinstance(value, datetime) else str(value)]
    words.append("--append")
    for partition, (_, covered) in summary["offsets"].items():
        words += ["--from-offset", f"{partition}:{covered}"]
    return shlex.join(words)


def _show(summary: Json, go_on: str) -> None:
    rows = [
        [name, summary[name]]
        for name in (
            "read", "skipped", "processed", "published", "dead_lettered", "silent", "unfinished",
        )
        if summary[name] or name in {"read", "processed", "published"}
    ]  # fmt: skip
    rows += [[f"  {label}", count] for label, count in summary["by_verdict"].items()]
    table([summary["into"], "events"], rows)
    state = "interrupted after" if summary["interrupted"] else "took"
    click.echo(f"{summary['stage']} {_version(summary['version'])}: {state} {summary['seconds']} s")
    if summary["interrupted"]:
        click.echo(f"go on with: {go_on}")
    if summary["error"]:
        click.echo(f"stopped: {summary['error']}", err=True)


def _version(version: Json | None) -> str:
    if not version:
        return ""
    banks = version.get("banks") or {}
    told = [f"{product}: {bank}" for product, bank in banks.items()]
    told += [f"{k} {v}" for k, v in version.items() if v is not None and k != "banks"]
    return ", ".join(told)


@replay.command("list")
@_JSON
def list_replays(*, as_json: bool) -> None:
    """List replays: what ran, when, how many events they hold."""
    found = asyncio.run(_list(read_settings()))
    if as_json:
        click.echo(json.dumps({"replays": found}, ensure_ascii=False))
        return
    rows = [
        [row["name"], row.get("stage"), _version(row.get("version")), row["records"],
         len(row.get("runs", ())), str(row.get("created_at", ""))[:19]]
        for row in found
    ]  # fmt: skip
    table(["replay", "stage", "version", "events", "runs", "made"], rows)


async def _list(settings: Settings) -> list[Json]:
    from app.replay.run import open_side  # noqa: PLC0415 - brings every client

    async with AsyncExitStack() as stack:
        _, side = await open_side(settings, stack)
        return await side.list()


@replay.command("remove")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(*, name: str, yes: bool) -> None:
    """Delete a replay: its topic and its objects."""
    settings = read_settings()
    if not asyncio.run(_remove(settings, checked_name(name), lambda: yes or _asked(name))):
        click.echo(f"{name} stays")


def _asked(name: str) -> bool:
    return click.confirm(f"Delete replays.{name} and all its objects?", default=False)


async def _remove(settings: Settings, name: str, is_meant: Callable[[], bool]) -> bool:
    from app.replay.run import open_side  # noqa: PLC0415 - brings every client

    async with AsyncExitStack() as stack:
        _, side = await open_side(settings, stack)
        if not await side.exists(name):
            raise await side.missing(name)
        if not is_meant():
            return False
        with progress_bars() as bars:
            report = bars.reporter(name)
            objects = await side.remove(name, lambda done, total: report("removing", done, total))
    click.echo(f"{name} is gone, with {objects} objects")
    return True


@replay.command("diff")
@click.argument("a")
@click.argument("b")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=0),
              help="Most images to list.")  # fmt: skip
@click.option("--reviews", is_flag=True, help="Hold both against what people decided.")
@_JSON
def diff(*, a: str, b: str, limit: int, reviews: bool, as_json: bool) -> None:
    """Compare two replays, or one with `live`: what changed, worst first."""
    from app.replay.diff_run import diff_replays  # noqa: PLC0415 - brings every client

    settings = read_settings()
    with progress_bars(quiet=as_json) as bars:
        told = diff_replays(
            settings, a, b, limit=limit, with_reviews=reviews, show=bars.reporter(f"{a} · {b}")
        )
        result = asyncio.run(told)
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False))
    else:
        _show_diff(result)


def _show_diff(result: Json) -> None:
    click.echo(
        f"{result['stage']}: {result['compared']} compared, {result['changed']} changed, "
        f"{result['only_in_a']} only in {result['a']}, {result['only_in_b']} only in {result['b']}"
    )
    if result["by_kind"]:
        table(["change", "images"], list(result["by_kind"].items()))
    spreads = {name: spread for name, spread in result["scores"].items() if spread}
    if spreads:
        names = {"a": result["a"], "b": result["b"], "shift": "shift"}
        fields = ("mean", "min", "p50", "p95", "max")
        rows = [[names[name], *(one[field] for field in fields)] for name, one in spreads.items()]
        table(
            ["score / threshold" if result["stage"] == "anomaly" else "similarity", *fields], rows
        )
    for name, said in result.get("reviews", {}).items():
        click.echo(
            f"{result[name]} against {said['reviewed']} reviews: {said['agree']} agree, "
            f"{said['disagree']} disagree, {said['open']} open"
        )
    rows = [
        [one["shift"], one["product"], one["part_id"] or one["image_id"],
         _told(one["a"]), _told(one["b"])]
        for one in result["images"]
    ]  # fmt: skip
    if rows:
        table(["shift", "product", "part", result["a"], result["b"]], rows)


def _told(said: Json) -> str:
    if said["score"] is not None and said["threshold"]:
        return f"{said['label']} {said['score']:.2f} / {said['threshold']:.2f}"
    return f"{said['label']} {said['nearest']}" if said["nearest"] else str(said["label"])


COMMANDS = {"replay": replay}
