from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from adapters.memory.objects import MemoryObjects
from consumers.llm.library import ManualLibrary
from consumers.llm.tokens import PlainTokenizer
from pipeline.errors import DependencyDownError
from tests.llm_samples import ENGLISH, KOREAN, PRODUCT, manual_event, until


async def shelf(*texts: str) -> tuple[ManualLibrary, MemoryObjects]:
    store = MemoryObjects()
    library = ManualLibrary(store, PlainTokenizer())
    for text in texts:
        event = manual_event(text)
        await store.put(event.key, text.encode(), content_type="text/markdown")
        await library.apply(event)
    return library, store


async def test_an_index_holds_every_manual_of_its_product() -> None:
    library, _ = await shelf(KOREAN, ENGLISH)
    languages = {chunk.language for chunk in (await library.index(PRODUCT)).chunks}
    assert languages == {"ko", "en"}
    assert (await library.index("other")).chunks == ()


async def test_a_removed_manual_is_forgotten() -> None:
    library, _ = await shelf(KOREAN, ENGLISH)
    before = await library.index(PRODUCT)
    await library.apply(manual_event(ENGLISH, removed=True, event_id=UUID(int=3)))
    after = await library.index(PRODUCT)
    assert {chunk.language for chunk in after.chunks} == {"ko"}
    assert after.version != before.version


async def test_an_unreadable_manual_does_not_hide_the_others() -> None:
    library, store = await shelf(KOREAN)
    broken = manual_event(b"%PDF-1.4 broken", file_name="b.pdf")
    await store.put(broken.key, b"%PDF-1.4 broken", content_type="application/pdf")
    await library.apply(broken)
    assert (await library.index(PRODUCT)).chunks
    assert library.problems == {broken.manual_id: "manual_unreadable"}


async def test_other_bytes_than_were_published_are_left_out() -> None:
    library, store = await shelf(KOREAN)
    event = manual_event(KOREAN)
    store.corrupt(event.key, ENGLISH.encode())
    assert (await library.index(PRODUCT)).chunks == ()
    assert library.problems == {event.manual_id: "sha256_mismatch"}


async def test_a_store_that_is_away_is_an_outage_and_not_an_empty_index() -> None:
    library, store = await shelf(KOREAN)
    store.fail("get", DependencyDownError("objects"))
    with pytest.raises(DependencyDownError):
        await library.index(PRODUCT)
    assert (await library.index(PRODUCT)).chunks


async def test_the_background_builds_what_is_missing() -> None:
    library, store = await shelf(KOREAN)
    running = asyncio.create_task(library.run())
    try:
        await until(lambda: bool(library._indexes))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    store.fail("get", DependencyDownError("objects"), times=9)
    assert (await library.index(PRODUCT)).chunks
