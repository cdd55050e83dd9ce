"""`lineside bench`: prints the figures that the documents claim."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from app.bench.ground import own_settings
from app.settings import read_settings

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group("bench")
def bench() -> None:
    """The figures that the documents claim."""


@bench.command("runtime")
@click.option("--records", default=50_000, show_default=True, type=click.IntRange(min=1000))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@_JSON
def runtime(*, records: int, rounds: int, as_json: bool) -> int:
    """The worker with a no-op stage against a bare loop and FastStream, interleaved."""
    from app.bench.runtime import bench_runtime, print_runtime  # noqa: PLC0415 - bench-only packages

    result = asyncio.run(_with_broker(lambda servers: bench_runtime(servers, records, rounds)))
    _print(result, print_runtime, as_json=as_json)
    return 0 if result["passed"] else 1


@bench.command("anomaly")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="DIR/<product>/{normal,defect}; the sample data by default.",
)
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1, 100))
@_JSON
def anomaly(*, root: Path | None, seeds: int, as_json: bool) -> int:
    """How well PatchCore tells defects: split at random per seed, judged on what is held out."""
    from app.bench.anomaly import bench_anomaly, print_anomaly  # noqa: PLC0415 - needs torch
    from app.samples.prepare import prepare  # noqa: PLC0415 - needs the samples extra

    if root is None:
        root = read_settings().state_dir.resolve() / "data"
        prepare(root)
    result = bench_anomaly(root, seeds)
    _print(result, print_anomaly, as_json=as_json)
    return 0


@bench.command("latency")
@click.option("--rate", default=5.0, show_default=True, type=click.FloatRange(min=0.1))
@click.option("--images", "count", default=100, show_default=True, type=click.IntRange(min=10))
@_JSON
@own_settings()
def latency(*, rate: float, count: int, as_json: bool) -> int:
    """Client send to websocket receipt, less the time inside infer, split by hop."""
    from app.bench.latency import bench_latency, print_latency  # noqa: PLC0415 - needs every role

    with tempfile.TemporaryDirectory(prefix="lineside-bench-") as folder:
        result = asyncio.run(bench_latency(Path(folder), rate=rate, count=count))
    _print(result, print_latency, as_json=as_json)
    return 0 if result["passed"] else 1


@bench.command("chaos")
@click.option("--minutes", default=2.0, show_default=True, type=click.FloatRange(min=0.2),
              help="How long faults go on; learning and coming to rest take longer.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="A random one by default.")
@click.option("--brokers", default="1", show_default=True, type=click.Choice(["1", "3"]),
              help="Nodes of Kafka; of three one is killed at a time.")  # fmt: skip
@click.option("--rate", default=1.5, show_default=True, type=click.FloatRange(0.1, 20),
              help="Images a second, of all cameras together.")  # fmt: skip
@_JSON
@own_settings()
def chaos(*, minutes: float, seed: int | None, brokers: str, rate: float, as_json: bool) -> int:
    """Random faults against a whole system under load, and whether anything was lost by them.

    Workers, brokers, object store and database are killed, connections are cut, delayed and
    swallowed, poison is planted; then a ledger compares what was accepted with the log, the
    tables, the index and the feed. The seed repeats the faults.
    """
    from app.chaos.report import print_chaos  # noqa: PLC0415 - as above
    from app.chaos.run import ChaosPlan, bench_chaos  # noqa: PLC0415 - needs every role

    if seed is None:
        seed = secrets.randbelow(2**32)
    click.echo(f"seed {seed}", err=True)
    # Clients of its own lose their brokers on purpose, and would tell so on every line.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    plan = ChaosPlan(minutes, seed, int(brokers), rate)
    folder = Path(tempfile.mkdtemp(prefix="lineside-chaos-"))
    passed = False
    try:
        result = asyncio.run(bench_chaos(folder, plan, lambda line: click.echo(line, err=True)))
        passed = result["passed"]
    except KeyboardInterrupt:
        passed = True  # nobody needs the state of a run that was called off
        raise
    finally:
        if passed:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            click.echo(f"state and logs are kept in {folder}", err=True)
    _print(result, print_chaos, as_json=as_json)
    return 0 if passed else 1


@bench.command("backlog")
@click.option("--images", default=10_000, show_default=True, type=click.IntRange(min=20),
              help="How many pile up.")  # fmt: skip
@click.option("--stages", default="anomaly,embed,record", show_default=True, help="What drains it.")
@click.option("--taken", "rate", default=1.0, show_default=True, type=click.FloatRange(min=0.01),
              help="Images a second that came in while the stages stood still.")  # fmt: skip
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="DIR/<product>/{normal,defect}; the sample data by default.",
)
@_JSON
@own_settings()
def backlog(*, images: int, stages: str, rate: float, root: Path | None, as_json: bool) -> int:
    """Pile images up while every stage stands still, then drain them: order, age, memory."""
    from app.bench import backlog as bench  # noqa: PLC0415 - needs every role
    from app.bench.backlog_table import print_backlog  # noqa: PLC0415 - as above
    from app.samples.prepare import prepare  # noqa: PLC0415 - needs the samples extra

    named = set(stages.split(","))
    if unknown := named - set(bench.STAGES):
        raise click.UsageError(f"--stages: {min(unknown)} is none of {','.join(bench.STAGES)}")
    chosen = tuple(stage for stage in bench.STAGES if stage in named)
    if root is None:
        root = read_settings().state_dir.resolve() / "data"
        prepare(root)
    options = bench.BacklogOptions(images, chosen, root, rate)
    with tempfile.TemporaryDirectory(prefix="lineside-bench-") as folder:
        result = asyncio.run(bench.bench_backlog(Path(folder), options, _speaker()))
    _print(result, print_backlog, as_json=as_json)
    return 0 if result["passed"] else 1


def _speaker() -> Callable[[str], None]:
    began = time.monotonic()
    return lambda text: click.echo(f"[{time.monotonic() - began:6.1f} s] {text}", err=True)


async def _with_broker(measure: Any) -> Any:
    from adapters.embedded_broker import EmbeddedBroker  # noqa: PLC0415 - only when one is needed

    named = read_settings().kafka.bootstrap_servers
    if named:
        return await measure(named)
    with tempfile.TemporaryDirectory(prefix="lineside-bench-") as folder:
        async with EmbeddedBroker(Path(folder)) as broker:
            return await measure(broker.bootstrap_servers)


def _print(result: Any, printer: Any, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False))
    else:
        printer(result)


COMMANDS = {"bench": bench}
