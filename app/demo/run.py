"""What the demo does, in order."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from app.cli.output import Bars, progress_bars
from app.client import Client
from app.data_folder import ProductFolder, read_data_folder
from app.demo.baseline import baseline_auroc
from app.demo.publishing import Publisher, Sent
from app.demo.summary import print_summary, summarise
from app.importing import ImportPlan, import_product
from app.samples.prepare import prepare
from app.samples.split import defect_type_of, split
from app.settings import Settings
from app.up import Running, check_room, running_system

# What two cores can judge, embed and report on beside each other without a queue.
IMAGES_PER_SECOND = 5.0
SETTLE_LIMIT_S = 60.0
LIVE_EVERY_S = (3.0, 7.0)
# Per product, good and defective together.
HELD_OUT = 50


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """How to run it.

    `lan_url` is where a phone on this network finds the page, and `token` what lets it in.
    """

    once: bool
    as_json: bool
    token: str | None = None
    lan_url: str | None = None


async def run_demo(settings: Settings, options: DemoOptions) -> int:
    """Run the demo; returns the exit code: 0 only when nothing was lost."""
    began = time.monotonic()
    say = _speaker()
    data = settings.state_dir.resolve() / "data"
    check_room(settings.state_dir.resolve())
    with progress_bars() as bars:
        tell = bars.reporter("sample data")
        say("sample data")
        await asyncio.to_thread(prepare, data, progress=tell)
    environment = {"LINESIDE_DEMO": "1"}
    async with running_system(settings, environment=environment, on_step=say) as running:
        page = f"{options.lan_url}/login?token={options.token}" if options.lan_url else running.url
        say(f"the page is at {page}")
        folders = [f for f in read_data_folder(data) if (f.path / "product.json").is_file()]
        plans = [plan_of(data, folder) for folder in folders]
        taught = await asyncio.to_thread(_import_all, running.url, options.token, plans)
        items = [item for plan in plans for item in _held_out(data, plan.folder)]
        random.Random(1).shuffle(items)  # noqa: S311 - an order, no secret
        items = await _publish(running, options, items, say)
        meta = {
            "broker": running.broker,
            "url": options.lan_url or running.url,
            "seconds": round(time.monotonic() - began, 1),
        }
        baselines = {
            plan.folder.code: await asyncio.to_thread(
                baseline_auroc, [i for i in items if i.product == plan.folder.code]
            )
            for plan in plans
        }
        summary = summarise(items, baselines=baselines, taught=taught, meta=meta)
        if not options.as_json:
            print_summary(summary, items)
        if not options.once:
            await _stay_alive(running, options, items, say)
        if options.as_json:
            click.echo(json.dumps(summary, ensure_ascii=False))
        return 1 if summary["images"]["lost"] or summary["images"]["refused"] else 0


def _speaker() -> Callable[[str], None]:
    began = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"[{time.monotonic() - began:5.1f} s] {text}", err=True)

    return say


def plan_of(data: Path, folder: ProductFolder) -> ImportPlan:
    """Teach what is not judged later."""
    chosen = split(data, folder.code)
    cases = set(chosen.cases)
    return ImportPlan(
        folder, list(chosen.normals), [item for item in folder.defects if item.path in cases]
    )


def _import_all(
    url: str, token: str | None, plans: Sequence[ImportPlan]
) -> dict[str, tuple[int, int]]:
    taught = {}
    with Client(url, token) as client, progress_bars() as bars:
        for plan in plans:
            result = import_product(client, plan, bars.reporter(plan.folder.code))
            taught[plan.folder.code] = (result.normals, result.cases)
    return taught


def _held_out(data: Path, folder: ProductFolder) -> list[Sent]:
    items = []
    for path in split(data, folder.code).held_out[:HELD_OUT]:
        is_defect = path.parent.name == "defect"
        label = defect_type_of(path.name, folder.code) if is_defect else None
        items.append(Sent(folder.code, path, is_defect, label))
    return items


async def _publish(
    running: Running, options: DemoOptions, items: list[Sent], say: Callable[[str], None]
) -> list[Sent]:
    say(f"sending {len(items)} pictures that no bank and no index has seen")
    run_id = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    publisher = Publisher(
        running.url, run_id, _verdict_printer(quiet=options.as_json), options.token
    )
    started = asyncio.Event()
    watching = asyncio.create_task(publisher.watch(started))
    try:
        async with asyncio.timeout(30):
            await started.wait()
        await publisher.send_all(items, per_second=IMAGES_PER_SECOND)
        with progress_bars() as bars:
            await publisher.settle(
                items, limit_s=SETTLE_LIMIT_S, on_progress=_counter(bars, len(items))
            )
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    return items


def _counter(bars: Bars, total: int) -> Callable[[int], None]:
    tell = bars.reporter("images")
    return lambda done: tell("complete", done, total)


def _verdict_printer(*, quiet: bool) -> Callable[[Sent, dict[str, Any]], None]:
    shapes = {"OK": "○", "NG": "✖", "REVIEW": "?", "ERROR": "!"}

    def show(item: Sent, event: dict[str, Any]) -> None:
        if quiet:
            return
        verdict = event["verdict"]
        score = "" if event["score"] is None else f"{event['score']:.2f} / {event['threshold']:.2f}"
        latency = f"{item.latency_ms:.0f} ms" if item.latency_ms is not None else ""
        click.echo(f"  {shapes[verdict]} {verdict:6} {item.product}  {score}  {latency}", err=True)

    return show


async def _stay_alive(
    running: Running, options: DemoOptions, items: Sequence[Sent], say: Callable[[str], None]
) -> None:
    """Send a picture every few seconds, so that the page shows life; ends by cancellation."""
    say("a picture goes in every few seconds; stop with Ctrl-C")
    chance = random.Random()  # noqa: S311 - an order, no secret
    publisher = Publisher(
        running.url, f"live-{datetime.now(UTC):%H%M%S}", lambda *_: None, options.token
    )
    while True:
        await asyncio.sleep(chance.uniform(*LIVE_EVERY_S))
        picked = chance.choice(items)
        item = Sent(picked.product, picked.path, picked.is_defect, picked.label)
        with suppress(OSError):
            await publisher.send_all([item], per_second=1)
