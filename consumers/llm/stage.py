"""The llm stage: a verdict becomes a response manual, streamed, checked and cited."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID, uuid4

from consumers.llm.explainer import Explainer, Timings
from consumers.llm.finding import Finding, names_of_type, voted_type
from consumers.llm.library import ManualLibrary
from consumers.llm.preview import Preview
from consumers.llm.retrieval import ManualIndex
from consumers.llm.tokens import Tokenizer
from consumers.llm.writing import Writer
from pipeline.errors import PoisonError, TransientError
from pipeline.policy import SkipReason, skip_reason
from pipeline.ports import Catalog, Clock, EventSink, Inspections, TextModel
from pipeline.stage import Settled
from schemas.anomalies import ImageScored
from schemas.configuration import ProductConfigured
from schemas.embeddings import ImageEmbedded
from schemas.event import Event, ImageEvent, derived_event_id, result_fields
from schemas.images import ImageSkipped, InspectionRequested
from schemas.reports import ImageExplained

logger = logging.getLogger(__name__)

NAME = "llm"
# From the verdict on, absolute: behind a backlog the neighbours are long there (architecture 5).
NEIGHBOURS_WITHIN = timedelta(seconds=3)
VERDICT_WITHIN = timedelta(seconds=5)
LOOK_AGAIN_AFTER = timedelta(milliseconds=200)


class Products(Protocol):
    """The replica of `products.configured`."""

    async def lookup(self, key: str) -> Any:
        """Return the newest ProductConfigured of a product, None if unknown or removed."""
        ...


@dataclass(frozen=True, slots=True)
class LlmWorld:
    """What the stage needs around it. `model` None: reports are excerpts of the manuals.

    The model is asked for `asks_at_once` reports; others in the making wait for their turn.
    `catalog`, where given, tells the names of the products' own defect types.
    """

    products: Products
    library: ManualLibrary
    inspections: Inspections
    sink: EventSink
    clock: Clock
    tokenizer: Tokenizer
    model: TextModel | None = None
    catalog: Catalog | None = None
    asks_at_once: int = 4


@dataclass(frozen=True, slots=True)
class Item:
    """A finding and the manuals to explain it with."""

    finding: Finding
    index: ManualIndex


class LlmStage:
    """A slot stage: its inference waits on the network, several at once."""

    name = NAME

    def __init__(self, world: LlmWorld, *, run_id: UUID | None = None) -> None:
        """`run_id` tells this worker's previews from another's; random when None."""
        self._world = world
        self._run_id = run_id or uuid4()
        writer = Writer(world.model, world.tokenizer) if world.model else None
        self._explainer = Explainer(writer, world.clock, world.asks_at_once)

    async def load(self, event: Event) -> Item | Settled:
        """Gather verdict, neighbours and manuals, or settle an image that needs no report.

        Raises:
            PoisonError: `unknown_product`.
            TransientError: the neighbours may still come.
            DependencyDownError: database or object store away.
        """
        if not isinstance(event, ImageScored | InspectionRequested):
            return Settled()
        if isinstance(event, InspectionRequested) and event.stage != NAME:
            return Settled()
        product = await self._world.products.lookup(event.subject.product)
        if product is None:
            raise PoisonError("unknown_product", f"no product {event.subject.product} is set up")
        scored = await self._verdict(event)
        reason = _skip_reason(event, scored, product)
        if reason is not None or scored is None:
            return Settled(self._skipped(event, product, reason or "not_applicable"))
        embedded = await self._neighbours(event)
        index = await self._world.library.index(product.product)
        return Item(await self._finding(event, scored, embedded, product), index)

    async def infer(self, item: Item) -> ImageExplained:
        """Stream and return the report; a cancelled call cancels the work on the server."""
        clock = self._world.clock
        trigger = item.finding.trigger
        report_id = derived_event_id(NAME, trigger.event_id)
        timings = Timings(clock.monotonic())
        preview = Preview(trigger.subject, report_id, self._run_id, self._world.sink, clock)
        report = await self._explainer.explain(item.finding, item.index, preview, timings)
        return ImageExplained.model_validate(
            {
                **result_fields(NAME, trigger, clock.now()),
                "report": report,
                "model": report.model,
                "refused": report.refused,
                "timings_ms": timings.as_event(clock.monotonic()),
            }
        )

    async def save(self, event: Event, result: ImageExplained) -> Event:  # noqa: ARG002 - the port's shape
        """Return the report as it is: it has no effects beside its event."""
        return result

    async def _verdict(self, event: ImageScored | InspectionRequested) -> ImageScored | None:
        """Return the verdict to explain; a request's may still be on its way to the tables."""
        if isinstance(event, ImageScored):
            return event
        image_id = event.subject.image_id
        current = await self._world.inspections.current(image_id, "anomaly")
        if isinstance(current, ImageScored):
            return current
        self._wait_until(event, VERDICT_WITHIN, "the verdict is not in the tables yet")
        return None

    async def _neighbours(self, event: ImageEvent) -> ImageEmbedded | None:
        image_id = event.subject.image_id
        current = await self._world.inspections.current(image_id, "embed")
        if isinstance(current, ImageEmbedded):
            return current
        self._wait_until(event, NEIGHBOURS_WITHIN, "the similar cases are not in the tables yet")
        return None

    def _wait_until(self, event: Event, limit: timedelta, message: str) -> None:
        now = self._world.clock.now()
        deadline = event.occurred_at + limit
        # A sender's clock that runs ahead must not hold the image longer than the limit.
        if now < deadline <= now + limit:
            raise TransientError(message, not_before=min(now + LOOK_AGAIN_AFTER, deadline))

    async def _finding(
        self,
        event: ImageEvent,
        scored: ImageScored,
        embedded: ImageEmbedded | None,
        product: ProductConfigured,
    ) -> Finding:
        rows: list[dict[str, Any]] = []
        if self._world.catalog is not None:
            rows = list(await self._world.catalog.rows("defect_types", product.product))
        code = voted_type(embedded)
        own = names_of_type(code, rows)
        other = [
            name
            for row in rows
            if row.get("code") != code
            for name in names_of_type(str(row.get("code")), rows)
        ]
        return Finding(event, scored, embedded, product, own, tuple(dict.fromkeys(other)))

    def _skipped(
        self, event: ImageEvent, product: ProductConfigured, reason: SkipReason
    ) -> ImageSkipped:
        return ImageSkipped.model_validate(
            {
                **result_fields(NAME, event, self._world.clock.now()),
                "reason": reason,
                "configuration_revision": product.revision,
            }
        )


def _skip_reason(
    event: ImageEvent, scored: ImageScored | None, product: ProductConfigured
) -> SkipReason | None:
    """Return why there is no report: nobody wants one, or there is nothing to report on."""
    if scored is None or scored.verdict == "ERROR":
        return "not_applicable"
    wanted = event.subject.requested.report
    is_asked = wanted != "auto" or isinstance(event, InspectionRequested)
    if scored.verdict == "OK" and not is_asked:
        return "not_applicable"
    return skip_reason(event, wanted=wanted, policy=product.policy.report)
