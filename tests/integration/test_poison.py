from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from PIL import Image

from adapters.kafka.connection import KafkaConnection
from adapters.kafka.reader import KafkaOpenReader
from app.resources import open_store
from schemas.codec import MAX_VALUE_BYTES
from schemas.subject import image_id
from tests import bad_pictures as bad
from tests.plant import PRODUCT, draw_part, plant_settings, running_plant, teach, write_product
from tests.poison_rig import DEADLINE_S, STATION, Plant

pytestmark = [pytest.mark.needs_kafka, pytest.mark.asyncio(loop_scope="module")]

JUDGES = ("anomaly", "embed")
READERS = ("anomaly", "embed", "record")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plant]:
    folder = tmp_path_factory.mktemp("poison")
    settings = plant_settings(folder / "state")
    root = write_product(folder / "data", normals=20, defects=3)
    async with running_plant(settings) as running:
        await asyncio.to_thread(teach, running.url, root)
        topics = [f"dead-letters.{stage}" for stage in (*READERS, "llm")]
        producer = AIOKafkaProducer(
            bootstrap_servers=running.bootstrap_servers, acks="all", max_request_size=1_048_000
        )
        async with (
            httpx.AsyncClient(base_url=running.url, timeout=30, trust_env=False) as http,
            KafkaOpenReader(KafkaConnection(running.bootstrap_servers))(topics) as graves,
            open_store(settings) as store,
            producer,
        ):
            yield Plant(http, producer, store, graves, settings.state_dir)


# --- over HTTP: refused with what to do ---------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[], bytes], int, str, str]] = {
    "truncated JPEG": (lambda: bad.truncated_jpeg(1), 422, "truncated_image", "send it again"),
    "half a JPEG and an end mark": (
        lambda: bad.truncated_jpeg(1) + b"\xff\xd9",
        422,
        "truncated_image",
        "send it again",
    ),
    "0 bytes": (lambda: b"", 415, "empty_file", "send it again"),
    "text": (lambda: b"shift report\n" * 40, 415, "not_an_image", "send one"),
    "ZIP": (bad.zip_archive, 415, "not_an_image", "send one"),
    "exploding text": (bad.exploding_text_png, 413, "decompression_bomb", "export"),
    "claimed giant": (bad.claimed_giant_png, 413, "decompression_bomb", "no camera"),
    "20,000 x 20,000": (bad.large_png, 413, "too_many_pixels", "send a part of it"),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_file_that_is_no_picture_is_refused_with_what_to_do(
    plant: Plant, kind: str
) -> None:
    make, status, slug, advice = REFUSED[kind]
    before = await plant.neighbour()
    answer = await plant.send(make())
    after = await plant.neighbour()
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["slug"]) == (status, slug)
    assert advice in problem["detail"]
    await plant.unharmed([before, after])


async def test_an_unknown_product_is_refused_with_where_to_set_it_up(plant: Plant) -> None:
    before = await plant.neighbour()
    answer = await plant.send(draw_part(1), product="없는-제품")
    problem = answer.json()
    assert (answer.status_code, problem["slug"]) == (422, "unknown_product")
    assert "/setup" in problem["detail"]
    await plant.unharmed([before])


async def test_broken_pixels_that_pass_the_door_end_in_dead_letters_that_the_image_shows(
    plant: Plant,
) -> None:
    before = await plant.neighbour()
    identity = await plant.accepted(bad.corrupt_png(2))
    after = await plant.neighbour()
    view = await plant.settled(identity)
    assert (view["status"], view["verdict"]) == ("failed", "ERROR")
    assert _reasons(view) == dict.fromkeys(JUDGES, "corrupt_image")
    await plant.unharmed([before, after])


# --- past HTTP: dead letters --------------------------------------------------------------------


def _reasons(view: Mapping[str, Any]) -> dict[str, str]:
    return {letter["stage"]: letter["reason"] for letter in view["dead_letters"]}


def _subject(image: dict[str, Any], **changes: Any) -> dict[str, Any]:
    captured_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    given = {"product": PRODUCT, "station": STATION, "captured_at": captured_at, "image": image}
    return given | changes


async def _missing(plant: Plant) -> dict[str, Any]:
    image = await plant.stored(draw_part(201))
    await plant.store.delete(image["key"])
    return _subject(image)


async def _unknown_product(plant: Plant) -> dict[str, Any]:
    return _subject(await plant.stored(draw_part(202)), product="없는-제품")


async def _wrong_sha256(plant: Plant) -> dict[str, Any]:
    image = await plant.stored(draw_part(203))
    return _subject(image | {"sha256": hashlib.sha256(b"another").hexdigest()})


async def _swapped(plant: Plant) -> dict[str, Any]:
    """Another valid picture of the very same size lies where the event points."""
    one, other = draw_part(204), draw_part(205, defect=True)
    size = max(len(one), len(other))
    one, other = one.ljust(size, b"\x00"), other.ljust(size, b"\x00")
    image = await plant.stored(one)
    await plant.store.put(image["key"], other, content_type="image/jpeg")
    return _subject(image)


async def _wrong_size(plant: Plant) -> dict[str, Any]:
    image = await plant.stored(draw_part(206))
    return _subject(image | {"size_bytes": image["size_bytes"] + 1})


async def _foreign_bucket(plant: Plant) -> dict[str, Any]:
    return _subject(await plant.stored(draw_part(207)) | {"bucket": "/etc"})


async def _climbing_key(plant: Plant) -> dict[str, Any]:
    return _subject(await plant.stored(draw_part(208)) | {"key": "images/../../../etc/passwd"})


async def _too_large(plant: Plant) -> dict[str, Any]:
    return _subject(await plant.stored(draw_part(209)) | {"size_bytes": 60_000_000})


async def _text(plant: Plant) -> dict[str, Any]:
    return _subject(await plant.stored(b"shift report"))


async def _truncated(plant: Plant) -> dict[str, Any]:
    return _subject(await plant.stored(bad.truncated_jpeg(210)))


async def _hidden(plant: Plant) -> dict[str, Any]:
    """Half of the pixels, and an end mark that says that this is all."""
    return _subject(await plant.stored(bad.truncated_jpeg(212) + b"\xff\xd9"))


async def _corrupt(plant: Plant) -> dict[str, Any]:
    return _subject(await plant.stored(bad.corrupt_png(211)))


async def _giant(plant: Plant) -> dict[str, Any]:
    return _subject(await plant.stored(bad.large_png()))


BURIED = {
    "unknown_product": _unknown_product,
    "object_missing": _missing,
    "sha256_mismatch": _wrong_sha256,
    "sha256_mismatch, swapped": _swapped,
    "size_mismatch": _wrong_size,
    "bucket_not_allowed": _foreign_bucket,
    "bad_object_key": _climbing_key,
    "object_too_large": _too_large,
    "not_an_image": _text,
    "truncated_image": _truncated,
    "truncated_image, end mark": _hidden,
    "corrupt_image, stained": _corrupt,
    "image_too_large": _giant,
}


@pytest.mark.parametrize("kind", BURIED)
async def test_an_event_that_cannot_be_inspected_ends_in_dead_letters_that_the_image_shows(
    plant: Plant, kind: str
) -> None:
    subject = await BURIED[kind](plant)
    reason = kind.partition(",")[0]
    before = await plant.neighbour()
    place = await plant.publish(json.dumps({"subject": subject}).encode())
    after = await plant.neighbour()
    buried = await plant.buried(place, JUDGES)
    assert {stage: letter.reason for stage, letter in buried.items()} == dict.fromkeys(
        JUDGES, reason
    )
    assert all(letter.error_text for letter in buried.values())
    view = await plant.settled(_identity(subject))
    assert (view["status"], view["verdict"]) == ("failed", "ERROR")
    assert _reasons(view) == dict.fromkeys(JUDGES, reason)
    await plant.unharmed([before, after])


def _identity(subject: Mapping[str, Any]) -> str:
    return image_id(
        product=subject["product"],
        sha256=subject["image"]["sha256"],
        captured_at=datetime.fromisoformat(subject["captured_at"]),
    )


NO_EVENT: dict[str, bytes | None] = {
    "null_value": None,
    "oversized_value": b'{"pixels": "%s"}' % (b"x" * MAX_VALUE_BYTES),
    "not_json": b"\xff\xd8\xff\xe0 a picture, not an event",
    "schema": b'{"subject": {"product": "../etc"}}',
}


@pytest.mark.parametrize("reason", NO_EVENT)
async def test_a_record_that_is_no_event_is_kept_by_every_stage_that_read_it(
    plant: Plant, reason: str
) -> None:
    value = NO_EVENT[reason]
    before = await plant.neighbour()
    place = await plant.publish(value)
    after = await plant.neighbour()
    buried = await plant.buried(place, READERS)
    assert {stage: letter.reason for stage, letter in buried.items()} == dict.fromkeys(
        READERS, reason
    )
    assert all(letter.subject is None for letter in buried.values())
    await plant.unharmed([before, after])


async def test_a_verdict_that_is_no_event_is_kept_by_the_stage_that_explains(plant: Plant) -> None:
    before = await plant.neighbour()
    place = await plant.publish(b"{}", topic="images.scored", partition=0)
    buried = await plant.buried(place, ("llm", "record"))
    assert {letter.reason for letter in buried.values()} == {"schema"}
    await plant.unharmed([before, await plant.neighbour()])


# --- odd, and fine ------------------------------------------------------------------------------

FINE: dict[str, Callable[[Image.Image], bytes]] = {
    "16 bit": bad.sixteen_bit_png,
    "CMYK": bad.cmyk_jpeg,
    "grey": bad.grey_jpeg,
    "palette": bad.palette_png,
    "alpha": bad.alpha_png,
    "EXIF-rotated": bad.turned_jpeg,
}
COLOURLESS = {"16 bit", "grey"}


@pytest.mark.parametrize("kind", FINE)
async def test_every_kind_of_picture_gets_a_verdict_in_the_pixels_that_people_see(
    plant: Plant, kind: str
) -> None:
    identity = await plant.accepted(FINE[kind](bad.scratched_part(90_000)))
    view = await plant.settled(identity)
    assert (view["status"], view["verdict"]) == ("complete", "NG")
    assert view["dead_letters"] == []
    image = view["subject"]["image"]
    assert (image["width"], image["height"]) == (320, 240)
    worst = max(view["scored"]["regions"], key=lambda region: region["score"])
    # Around the scratch at (216, 120), which lies elsewhere in a picture that is not set upright.
    assert worst["x"] < 216 < worst["x"] + worst["width"]
    assert worst["y"] < 120 < worst["y"] + worst["height"]
    # Without its tint the whole part differs from what the bank knows, not the scratch alone.
    assert max(worst["width"], worst["height"]) < (200 if kind in COLOURLESS else 120)
    for picture in ("thumbnail", "heatmap", "overlay"):
        answer = await plant.http.get(f"/v1/images/{identity}/{picture}")
        assert (answer.status_code, answer.headers["content-type"][:6]) == (200, "image/")


# --- and the counts add up ----------------------------------------------------------------------


async def test_g19_what_the_roles_have_counted_by_now_is_what_the_tables_hold(plant: Plant) -> None:
    """After all of the above, or after one part and one letter where this runs alone."""
    await plant.unharmed([await plant.neighbour()])
    await plant.buried(await plant.publish(None), READERS)
    letters = "SELECT 'lineside_dead_letters', reason, stage, count(*) FROM dead_letters"
    results = "SELECT 'lineside_events_settled', stage, count(*) FROM inspections"
    uploads = "SELECT count(*) FROM outbox WHERE topic = 'images.uploaded'"

    def held() -> dict[tuple[str, ...], int]:
        rows = plant.tables(f"{letters} GROUP BY reason, stage")
        rows += plant.tables(f"{results} WHERE stage IN ('anomaly', 'embed') GROUP BY stage")
        ((accepted,),) = plant.tables(uploads)
        return {tuple(key): n for *key, n in rows} | {("lineside_uploads", "accepted"): accepted}

    deadline = time.monotonic() + DEADLINE_S
    while True:
        counted = await plant.scraped()
        kept = {
            key: count
            for key, count in counted.items()
            if key[0] == "lineside_dead_letters"
            or key in {("lineside_events_settled", stage) for stage in JUDGES}
            or key == ("lineside_uploads", "accepted")
        }
        rows = held()
        if kept == rows:
            break
        assert time.monotonic() < deadline, f"counted {kept}, the tables hold {rows}"
        await asyncio.sleep(0.2)  # the last of them are on their way
    assert kept[("lineside_dead_letters", "null_value", "record")] >= 1
    assert kept[("lineside_uploads", "accepted")] >= 1
