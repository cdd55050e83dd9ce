"""embed: an image to its most similar past cases and the defect type that they vote for."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from consumers.embed.cases import Workbench
from consumers.embed.index import CaseIndex, Match, Query
from pipeline.claim_check import fetch_verified
from pipeline.errors import PoisonError
from pipeline.ports import Clock
from pipeline.stage import Settled
from schemas.embeddings import ImageEmbedded, Neighbour
from schemas.event import Event, result_fields
from schemas.images import ImageUploaded
from schemas.subject import Subject

STAGE = "embed"
NEIGHBOURS = 5

# Decoding a smaller file takes less time than the hop to a thread.
_DECODE_INLINE_BYTES = 20_000


class Products(Protocol):
    """The replica of `products.configured`."""

    async def lookup(self, key: str) -> Any:
        """Newest ProductConfigured, or None once the log's end says there is none."""
        ...


@dataclass(frozen=True, slots=True)
class EmbedParts:
    """What the stage works with; `wait_ready` returns once the index holds all known cases."""

    bench: Workbench
    index: CaseIndex
    products: Products
    wait_ready: Callable[[], Awaitable[None]]
    clock: Clock


class Picture(NamedTuple):
    """A decoded image, (H, W, 3) uint8 RGB, with its subject."""

    subject: Subject
    pixels: NDArray[np.uint8]
    load_ms: float


class Found(NamedTuple):
    """What the index answered."""

    matches: tuple[Match, ...]
    index_version: str
    timings_ms: dict[str, float]


class Vote(NamedTuple):
    """A defect type, and its share of the neighbours' weights in [0, 1]."""

    defect_type: str | None
    confidence: float | None


class EmbedStage:
    """ImageUploaded to ImageEmbedded; a BatchStage."""

    name = STAGE

    def __init__(self, parts: EmbedParts) -> None:
        """Take what the stage works with."""
        self._parts = parts

    async def load(self, event: Event) -> Picture | Settled:
        """Fetch, verify and decode.

        Raises:
            PoisonError: `unknown_product`, or the picture is missing, altered or no picture.
            TransientError: store or log are away.
        """
        if not isinstance(event, ImageUploaded):
            return Settled(None)
        parts, subject = self._parts, event.subject
        started = parts.clock.monotonic()
        # an answer from half an index would stand for ever: the first event of an id wins
        await parts.wait_ready()
        if await parts.products.lookup(subject.product) is None:
            raise PoisonError("unknown_product", f"{subject.product} is not set up")
        bench = parts.bench
        data = await fetch_verified(bench.objects, subject.image, max_bytes=bench.max_bytes)
        if len(data) < _DECODE_INLINE_BYTES:
            pixels = bench.decode(data)
        else:
            pixels = await asyncio.to_thread(bench.decode, data)
        return Picture(subject, pixels, self._ms_since(started))

    def infer(self, items: Sequence[Picture]) -> Sequence[Found]:
        """Embed and search; each image on its own."""
        parts = self._parts
        started = parts.clock.monotonic()
        embeddings = parts.bench.encoder.encode([item.pixels for item in items])
        found = []
        for item, embedding in zip(items, embeddings, strict=True):
            subject = item.subject
            query = Query(
                embedding,
                product=subject.product,
                sha256=subject.image.sha256,
                image_id=subject.image_id,
                part_id=subject.part_id,
                k=NEIGHBOURS,
            )
            found.append((item, parts.index.search(query)))
        infer_ms = self._ms_since(started)
        return [Found(*answer, {"load": item.load_ms, "infer": infer_ms}) for item, answer in found]

    def _ms_since(self, started: float) -> float:
        return round((self._parts.clock.monotonic() - started) * 1000, 2)

    async def save(self, event: Event, result: Found) -> Event:
        """Name the neighbours and their vote; nothing is stored."""
        assert isinstance(event, ImageUploaded)
        encoder = self._parts.bench.encoder
        vote = vote_on(result.matches, encoder.close_similarity)
        return ImageEmbedded(
            **result_fields(STAGE, event, self._parts.clock.now()),
            model=encoder.name,
            index_version=result.index_version,
            timings_ms=result.timings_ms,
            neighbours=tuple(as_neighbour(match) for match in result.matches),
            voted_defect_type=vote.defect_type,
            voted_confidence=vote.confidence,
        )


def vote_on(matches: Sequence[Match], close_similarity: float) -> Vote:
    """Weigh the matches above `close_similarity` by how far they are above it.

    Cases without a defect type vote against all types. No close match: no vote.
    """
    weights: dict[str, float] = defaultdict(float)
    for match in matches:
        if match.similarity > close_similarity:
            weights[match.case.defect_type or ""] += match.similarity - close_similarity
    if not weights:
        return Vote(None, None)
    # the smaller name wins a tie, so that the vote is the same everywhere
    winner = min(weights, key=lambda name: (-weights[name], name))
    if not winner:
        return Vote(None, None)
    return Vote(winner, round(weights[winner] / sum(weights.values()), 4))


def as_neighbour(match: Match) -> Neighbour:
    """A match as events and answers show it."""
    case = match.case
    return Neighbour(
        case_id=case.case_id,
        image_key=case.image_key,
        product=case.product,
        defect_type=case.defect_type,
        similarity=match.similarity,
        decision=case.decision,
        decided_at=case.decided_at,
        action_taken=case.action_taken,
    )
