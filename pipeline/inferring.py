"""Running a stage on one micro-batch: compute, isolate the guilty, save."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.batching import Bisection, check_length
from pipeline.compute import Compute
from pipeline.errors import DependencyDownError
from pipeline.lanes import spread
from pipeline.sealing import seal
from pipeline.stage import Settled
from pipeline.work import Work

Infer = Callable[[Sequence[Any]], Sequence[Any]]


async def infer_batch(infer: Infer, works: Sequence[Work], compute: Compute) -> None:
    """Replace each `item` by its result, or set the `error` of those that failed."""
    todo = [work for work in works if not isinstance(work.item, Settled)]
    search = Bisection(len(todo))
    while (span := search.span()) is not None:
        items = [todo[index].item for index in span]
        try:
            search.succeeded(await compute.run(_infer_checked, infer, items))
        except Exception as error:  # noqa: BLE001 - a stage may raise anything; it is sorted later
            search.failed(error)
    for index, work in enumerate(todo):
        work.item = search.results[index]
        work.error = search.errors.get(index)


def _infer_checked(infer: Infer, items: Sequence[Any]) -> Sequence[Any]:
    """Run on the compute thread, conversion to a list included: it may compute as well."""
    return check_length(items, list(infer(items)))


async def save_batch(stage: Any, works: Sequence[Work], width: int) -> None:
    """Seal each output in its `message`, or set the `error` of those that failed."""
    todo = [work for work in works if work.error is None]
    together = [work for work in todo if not isinstance(work.item, Settled)]
    if together and hasattr(stage, "save_all") and await _save_together(stage, together):
        todo = [work for work in todo if isinstance(work.item, Settled)]

    async def save(work: Work) -> None:
        try:
            await save_one(stage, work)
        except Exception as error:  # noqa: BLE001 - as above
            work.error = error

    await spread(todo, save, width)


async def save_one(stage: Any, work: Work) -> None:
    """Save one result, or take what was settled without one, and seal the output."""
    if isinstance(work.item, Settled):
        output = work.item.event
    else:
        output = await stage.save(work.event, work.item)
    work.message = seal(stage.name, work.record, output)
    work.item = work.event = None


async def _save_together(stage: Any, works: Sequence[Work]) -> bool:
    """Return whether every event has its outcome; if not, each is to be saved alone."""
    events = [work.event for work in works]
    results = [work.item for work in works]
    try:
        outputs = check_length(works, await stage.save_all(events, results))
        messages = [
            seal(stage.name, work.record, output)
            for work, output in zip(works, outputs, strict=True)
        ]
    except DependencyDownError as error:
        for work in works:
            work.error = error
        return True
    except Exception:  # noqa: BLE001 - one of them is at fault: saved alone, it shows itself
        return False
    for work, message in zip(works, messages, strict=True):
        work.message = message
        work.item = work.event = None
    return True
