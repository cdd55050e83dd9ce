"""Every object store keeps the same promises: in memory, in a directory, in an S3 server."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from adapters.memory.objects import MemoryObjects
from adapters.objects import open_objects
from adapters.objects_local import LocalObjects
from adapters.objects_s3 import S3Objects
from pipeline.claim_check import fetch_verified
from pipeline.errors import DependencyDownError, PoisonError
from schemas.subject import ImageRef

Store = MemoryObjects | LocalObjects | S3Objects


@pytest.fixture(params=["memory", "local", "s3"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryObjects()
    elif request.param == "local":
        async with open_objects((tmp_path / "objects").as_uri()) as local:
            yield local
    else:
        url, access, secret = request.getfixturevalue("s3")
        bucket = f"test-{uuid4().hex[:12]}"
        address = f"s3://{bucket}?endpoint={url}"
        async with open_objects(address, access_key=access, secret_key=secret) as remote:
            yield remote


async def test_what_was_put_is_read_back_byte_for_byte(store: Store) -> None:
    data = bytes(range(256)) * 700
    await store.put("images/a", data, content_type="image/png")
    assert await store.get("images/a") == data
    assert await store.get("images/a", bucket=store.bucket) == data


async def test_a_new_store_holds_nothing_and_says_so(store: Store) -> None:
    """Found by the chaos bench: without its bucket, the case index never got ready."""
    assert [found async for found in store.list("snapshots/")] == []
    assert await store.stat("images/a") is None


async def test_a_key_may_hold_hangul(store: Store) -> None:
    await store.put("banks/베어링/1/bank.npz", b"x", content_type="application/octet-stream")
    assert await store.get("banks/베어링/1/bank.npz") == b"x"
    assert [found.key async for found in store.list("banks/베어링/")] == ["banks/베어링/1/bank.npz"]


async def test_putting_the_same_object_twice_is_no_error_and_the_last_one_counts(
    store: Store,
) -> None:
    await store.put("images/a", b"one", content_type="image/png")
    await store.put("images/a", b"one", content_type="image/png")
    await store.put("images/a", b"two", content_type="image/png")
    assert await store.get("images/a") == b"two"


async def test_a_missing_object_is_poison_and_has_no_stat(store: Store) -> None:
    await store.put("images/there", b"x", content_type="image/png")
    with pytest.raises(PoisonError) as caught:
        await store.get("images/absent")
    assert caught.value.reason == "object_missing"
    assert await store.stat("images/absent") is None
    with pytest.raises(PoisonError):
        await store.get("images/there/deeper")


async def test_stat_knows_size_and_time(store: Store) -> None:
    await store.put("images/a", b"12345", content_type="image/png")
    found = await store.stat("images/a")
    assert found is not None
    assert (found.key, found.size_bytes) == ("images/a", 5)
    assert found.modified_at.tzinfo is not None


async def test_an_object_beyond_the_limit_is_refused_and_the_store_goes_on(store: Store) -> None:
    await store.put("images/a", b"x" * 1000, content_type="image/png")
    with pytest.raises(PoisonError) as caught:
        await store.get("images/a", max_bytes=999)
    assert caught.value.reason == "object_too_large"
    assert len(await store.get("images/a", max_bytes=1000)) == 1000


async def test_deleting_is_final_and_repeatable(store: Store) -> None:
    await store.put("images/a", b"x", content_type="image/png")
    await store.delete("images/a")
    await store.delete("images/a")
    assert await store.stat("images/a") is None


async def test_listing_follows_the_order_of_keys_and_the_prefix_alone(store: Store) -> None:
    keys = ["images/b", "images/a/2", "images/a-1", "images/a/1", "imagesx/c", "other/d"]
    for key in keys:
        await store.put(key, b"x", content_type="image/png")
    found = [entry.key async for entry in store.list("images/")]
    assert found == ["images/a-1", "images/a/1", "images/a/2", "images/b"]
    assert [entry.key async for entry in store.list("images/a")] == found[:3]
    assert [entry.key async for entry in store.list("nothing/")] == []


@pytest.mark.parametrize(
    "key",
    [
        "../secret",
        "a/../../b",
        "/etc/passwd",
        "",
        "a//b",
        "./a",
        "a/.",
        "a\\b",
        "a\x00b",
        "가" * 400,
    ],
)
async def test_no_key_leads_out_of_the_store(store: Store, key: str) -> None:
    for attempt in (store.get(key), store.stat(key), store.delete(key)):
        with pytest.raises(PoisonError) as caught:
            await attempt
        assert caught.value.reason == "bad_object_key"
    with pytest.raises(PoisonError):
        await store.put(key, b"x", content_type="image/png")


async def test_a_foreign_bucket_is_refused_unless_allowed(store: Store) -> None:
    with pytest.raises(PoisonError) as caught:
        await store.get("passwd", bucket="/etc")
    assert caught.value.reason == "bucket_not_allowed"


async def test_many_writers_of_one_key_leave_one_whole_object(store: Store) -> None:
    bodies = [bytes([number]) * 50_000 for number in range(8)]

    async def put(body: bytes) -> None:
        # A busy server may turn one of them away; whoever wrote comes again, as workers do.
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(DependencyDownError):
                    await store.put("images/same", body, content_type="image/png")
                    return

    await asyncio.gather(*(put(body) for body in bodies))
    assert await store.get("images/same") in bodies
    assert [entry.key async for entry in store.list("")] == ["images/same"]


async def test_the_claim_check_refuses_other_bytes_than_the_event_names(store: Store) -> None:
    data = b"picture" * 100
    await store.put("images/a", data, content_type="image/png")
    ref = ImageRef(
        bucket=store.bucket,
        key="images/a",
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
    )
    assert await fetch_verified(store, ref, max_bytes=10_000) == data
    await store.put("images/a", data[::-1], content_type="image/png")
    with pytest.raises(PoisonError) as caught:
        await fetch_verified(store, ref, max_bytes=10_000)
    assert caught.value.reason == "sha256_mismatch"


async def test_a_server_that_is_away_is_an_outage_and_no_poison() -> None:
    address = "s3://bucket?endpoint=http://127.0.0.1:9"
    async with open_objects(address, access_key="a", secret_key="s" * 8) as remote:
        with pytest.raises(DependencyDownError) as caught:
            await remote.get("images/a")
        assert caught.value.dependency == "objects"


async def test_an_allowed_foreign_bucket_is_read_by_whole_path_parts(
    s3: tuple[str, str, str],
) -> None:
    url, access, secret = s3
    foreign, own = f"mes-{uuid4().hex[:8]}", f"own-{uuid4().hex[:8]}"
    connect = partial(open_objects, access_key=access, secret_key=secret)
    async with connect(f"s3://{foreign}?endpoint={url}") as mes:
        await mes.put("out/1.png", b"theirs", content_type="image/png")
        await mes.put("out-secret/1.png", b"not for us", content_type="image/png")
    allowed = (f"{foreign}/out", "gone/")
    async with connect(f"s3://{own}?endpoint={url}", allowed_prefixes=allowed) as store:
        assert await store.get("out/1.png", bucket=foreign) == b"theirs"
        for bucket, key, reason in (
            (foreign, "out-secret/1.png", "bucket_not_allowed"),
            ("gone", "1.png", "bucket_unreadable"),
        ):
            with pytest.raises(PoisonError) as caught:
                await store.get(key, bucket=bucket)
            assert caught.value.reason == reason
