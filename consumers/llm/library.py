"""The manuals of every product, indexed when they are first needed or in the background."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence

from consumers.llm.manual_files import read_manual
from consumers.llm.manuals import Chunk, chunk_manual
from consumers.llm.retrieval import ManualIndex
from consumers.llm.tokens import Tokenizer
from pipeline.errors import PoisonError, TransientError
from pipeline.ports import BlobStore
from schemas.configuration import ManualPublished

logger = logging.getLogger(__name__)

MAX_MANUAL_BYTES = 100_000_000
_RETRY_S = 5.0


class ManualLibrary:
    """Follows `manuals.published`; a Service that keeps every product's index fresh.

    `apply` is the `on_change` of a Replica and only notes what changed, so that a slow PDF
    never holds up the log. `index` builds what is still missing before it answers.
    """

    def __init__(self, store: BlobStore, tokenizer: Tokenizer) -> None:
        """Keep where manuals lie."""
        self.name = "manual library"
        self._store = store
        self._tokenizer = tokenizer
        self._manuals: dict[str, dict[str, ManualPublished]] = defaultdict(dict)
        self._chunks: dict[tuple[str, str], tuple[Chunk, ...]] = {}
        self._indexes: dict[str, ManualIndex] = {}
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._changed = asyncio.Event()
        self.problems: dict[str, str] = {}

    async def apply(self, event: ManualPublished) -> None:
        """Note a manual that was published or removed."""
        for product, manuals in self._manuals.items():
            known = manuals.pop(event.manual_id, None)
            if known is not None:
                self._chunks.pop((known.manual_id, str(known.event_id)), None)
                self._indexes.pop(product, None)
        self.problems.pop(event.manual_id, None)
        if not event.removed:
            self._manuals[event.product][event.manual_id] = event
        self._indexes.pop(event.product, None)
        self._changed.set()

    async def index(self, product: str) -> ManualIndex:
        """Return the index of a product's manuals, empty where there are none.

        A manual that cannot be read is left out, logged and named in `problems`.

        Raises:
            DependencyDownError: the object store is away.
        """
        async with self._locks[product]:
            while product not in self._indexes:
                manuals = dict(self._manuals[product])
                chunks = [chunk for one in manuals.values() for chunk in await self._read(one)]
                built = await asyncio.to_thread(ManualIndex, chunks, self._tokenizer)
                if manuals == self._manuals[product]:
                    self._indexes[product] = built
            return self._indexes[product]

    async def run(self) -> None:
        """Build missing indexes in the background, so that the first report need not wait."""
        await asyncio.to_thread(self._tokenizer.terms, "불량 조치")
        while True:
            self._changed.clear()
            try:
                for product in list(self._manuals):
                    await self.index(product)
            except TransientError as error:
                logger.warning(
                    "manuals are not indexed yet",
                    extra={"action": "manuals_wait", "error": str(error)},
                )
                await asyncio.sleep(_RETRY_S)
                continue
            await self._changed.wait()

    def not_ready(self) -> Sequence[str]:
        """Never keep the stage waiting: `index` builds what is missing."""
        return ()

    async def _read(self, manual: ManualPublished) -> tuple[Chunk, ...]:
        key = (manual.manual_id, str(manual.event_id))
        if key not in self._chunks:
            try:
                self._chunks[key] = await self._fetch(manual)
            except PoisonError as error:
                self.problems[manual.manual_id] = error.reason
                self._chunks[key] = ()
                logger.error(  # noqa: TRY400 - an unreadable file is no bug of ours to trace
                    "manual is left out",
                    extra={
                        "action": "manual_left_out",
                        "manual_id": manual.manual_id,
                        "product": manual.product,
                        "reason": error.reason,
                        "error": str(error),
                    },
                )
        return self._chunks[key]

    async def _fetch(self, manual: ManualPublished) -> tuple[Chunk, ...]:
        data = await self._store.get(manual.key, max_bytes=MAX_MANUAL_BYTES)
        return await asyncio.to_thread(_cut, manual, data)


def _cut(manual: ManualPublished, data: bytes) -> tuple[Chunk, ...]:
    if hashlib.sha256(data).hexdigest() != manual.sha256:
        raise PoisonError("sha256_mismatch", f"{manual.key} holds other bytes than were published")
    text = read_manual(data, file_name=manual.file_name, content_type=manual.content_type)
    return chunk_manual(manual, text)
