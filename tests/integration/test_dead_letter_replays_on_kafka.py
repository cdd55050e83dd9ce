"""Dead letters of a running plant on Apache Kafka: found, put back, resolved or returned."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from adapters.kafka.connection import KafkaConnection
from adapters.kafka.reader import KafkaOpenReader
from adapters.kafka.sink import KafkaSink
from adapters.objects import Objects
from app.client import Client
from app.resources import open_store
from app.up import Running
from schemas.codec import encode
from schemas.event import uploaded_event_id
from schemas.images import ImageUploaded, InspectionRequested
from schemas.message import Message, Position
from schemas.replays import replay_headers
from schemas.subject import ImageRef, Subject, image_id
from tests.letters_rig import FOREIGN, bury, came_back
from tests.plant import PRODUCT, draw_part, plant_settings, running_plant, teach, write_product

pytestmark = [pytest.mark.needs_kafka, pytest.mark.asyncio(loop_scope="module")]

DEADLINE_S = 60.0


@dataclass
class Plant:
    """A system that runs, its log and its store."""

    running: Running
    http: httpx.AsyncClient
    sink: KafkaSink
    store: Objects
    parts: int = 0

    async def get(self, path: str, **query: Any) -> Any:
        answer = await self.http.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def upload(self, *, product: str = PRODUCT, keep: bool = True) -> ImageUploaded:
        """What a camera publishes that stores its own image; without `keep` the object is lost."""
        self.parts += 1
        data = draw_part(50_000 + self.parts)
        event = _uploaded(data, f"letter-{self.parts}", product, self.store.bucket)
        if keep:
            await self.mend(event)
        await self.publish(encode(event, source="/camera"))
        return event

    async def mend(self, event: ImageUploaded) -> None:
        """Put an image's bytes where its event points."""
        number = int(str(event.subject.part_id).rpartition("-")[2])
        data = draw_part(50_000 + number)
        await self.store.put(event.subject.image.key, data, content_type="image/jpeg")

    async def publish(self, message: Message) -> Position:
        """Put a message into the log with foreign headers as its publisher's own."""
        (position,) = await self.sink.publish(
            [message._replace(headers=(*message.headers, *FOREIGN))]
        )
        return position

    async def letters(self, place: Position | ImageUploaded, count: int) -> dict[str, Any]:
        """Wait for the first letters of a record, by stage."""

        def mine(letter: dict[str, Any]) -> bool:
            if isinstance(place, ImageUploaded):
                is_it = letter["image_id"] == place.subject.image_id
            else:
                found = (letter["topic"], letter["partition"], letter["offset"])
                is_it = found == tuple(place)
            return is_it and letter["replay_of"] is None

        async def found() -> dict[str, Any] | None:
            page = await self.get("/v1/dead-letters", limit=500)
            letters = {one["stage"]: one for one in page["dead_letters"] if mine(one)}
            return letters if len(letters) == count else None

        letters: dict[str, Any] = await until(found, f"{count} letters of {place}")
        return letters

    async def replay(self, *letters: dict[str, Any], **body: Any) -> Any:
        """Put letters back by their ids and wait until each has its answer."""
        ids = [letter["event_id"] for letter in letters]
        order = {"ids": ids, "requested_by": "kim", "rate_per_s": 100, **body}
        answer = await self.http.post("/v1/dead-letters/replay", json=order)
        assert answer.status_code == 202, answer.text
        return await self.answered(answer.json()["progress_url"])

    async def answered(self, path: str) -> Any:
        async def done() -> Any:
            told = await self.get(path)
            return told if told["state"] == "done" and not told["waiting"] else None

        return await until(done, f"the answers to {path}")

    async def letter(self, letter: dict[str, Any]) -> Any:
        return await self.get(f"/v1/dead-letters/{letter['event_id']}")

    async def records(self, topic: str, image: str) -> int:
        """How many records the log holds about an image."""
        open_reader = KafkaOpenReader(KafkaConnection(self.running.bootstrap_servers))
        async with open_reader([topic]) as source:
            left = sum((await source.end_offsets()).values())
            found = 0
            while left > 0:
                records = await source.poll(500, 1.0)
                found += sum(record.header("ce_subject") == image for record in records)
                left -= len(records)
        return found

    async def lineside(self, *arguments: str) -> tuple[int, str, str]:
        """Run the command; returns exit code, stdout and stderr."""
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("lineside")),
            "dead-letters", *arguments, "--url", self.running.url,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        return int(process.returncode or 0), out.decode(), err.decode()


async def until(condition: Callable[[], Any], what: str) -> Any:
    """Ask again until there is an answer."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := await condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.1)
    return found


def _uploaded(data: bytes, part: str, product: str, bucket: str) -> ImageUploaded:
    now = datetime.now(UTC)
    digest = hashlib.sha256(data).hexdigest()
    identity = image_id(product=product, sha256=digest, part_id=part, captured_at=now)
    image = ImageRef(
        bucket=bucket, key=f"images/{digest}", sha256=digest, size_bytes=len(data),
        content_type="image/jpeg",
    )  # fmt: skip
    subject = Subject(
        image_id=identity, product=product, part_id=part, station="press-1",
        captured_at=now, received_at=now, image=image,
    )  # fmt: skip
    return ImageUploaded(event_id=uploaded_event_id(identity), occurred_at=now, subject=subject)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plant]:
    folder = tmp_path_factory.mktemp("letters")
    settings = plant_settings(folder / "state")
    root = write_product(folder / "data", normals=8, defects=0)
    async with running_plant(settings) as running:
        await asyncio.to_thread(teach, running.url, root)
        sink = KafkaSink(KafkaConnection(running.bootstrap_servers))
        async with (
            httpx.AsyncClient(base_url=running.url, timeout=30, trust_env=False) as http,
            open_store(settings) as store,
        ):
            yield Plant(running, http, sink, store)
        await sink.close()


async def test_a_mended_record_is_resolved_by_a_replay_and_its_image_becomes_complete(
    plant: Plant,
) -> None:
    event = await plant.upload(keep=False)
    image = event.subject.image_id
    letters = await plant.letters(event, 2)
    assert {one["reason"] for one in letters.values()} == {"object_missing"}
    view = await plant.get(f"/v1/images/{image}")
    assert (view["status"], len(view["dead_letters"])) == ("failed", 2)
    await plant.mend(event)
    told = await plant.replay(*letters.values(), reason="object restored")
    assert (told["letters"], told["resolved"], told["returned"]) == (2, 2, 0)

    async def complete() -> Any:
        view = await plant.get(f"/v1/images/{image}")
        return view if view["status"] == "complete" else None

    view = await until(complete, "the image to be complete")
    assert view["dead_letters"] == []
    for stage, field in (("anomaly", "scored"), ("embed", "embedded")):
        letter = await plant.letter(letters[stage])
        assert (letter["state"], letter["resolved_by"]) == ("resolved", view[field]["event_id"])
        (history,) = letter["history"]["replays"]
        assert (history["requested_by"], history["reason"]) == ("kim", "object restored")
        assert history["topic"] == "images.uploaded"
    # Each stage settled the record that was put back for it, and not the other's.
    assert await plant.records("images.uploaded", image) == 3
    assert await plant.records("images.scored", image) == 1
    assert await plant.records("images.embedded", image) == 1


async def test_what_is_still_poison_comes_back_once_to_the_stage_that_buried_it(
    plant: Plant,
) -> None:
    event = await plant.upload(keep=False)
    letters = await plant.letters(event, 2)
    told = await plant.replay(letters["anomaly"])
    assert (told["returned"], told["resolved"]) == (1, 0)
    first = await plant.letter(letters["anomaly"])
    assert first["state"] == "replayed"
    second = await plant.letter({"event_id": first["returned_as"]})
    assert (second["state"], second["replay_of"]) == ("open", first["event_id"])
    assert (second["stage"], second["reason"]) == ("anomaly", "object_missing")
    assert [one["event_id"] for one in second["history"]["earlier"]] == [first["event_id"]]
    own = first["record"]["headers"]
    again = [one for one in second["record"]["headers"] if not one["name"].startswith("x-replay")]
    assert again == own
    assert second["record"]["value"] == first["record"]["value"]
    assert await plant.records("dead-letters.anomaly", event.subject.image_id) == 2
    assert await plant.records("dead-letters.embed", event.subject.image_id) == 1


async def test_a_letter_of_the_report_stage_can_be_put_back(plant: Plant) -> None:
    subject = _uploaded(b"x", "report-1", "new-part", plant.store.bucket).subject
    request = InspectionRequested(
        event_id=uuid4(), occurred_at=datetime.now(UTC), subject=subject, stage="llm",
        requested_by="mes",
    )  # fmt: skip
    place = await plant.publish(encode(request, source="/mes"))
    letters = await plant.letters(place, 1)
    assert letters["llm"]["reason"] == "unknown_product"
    made = await plant.http.put(
        "/v1/products/new-part", json={"revision": 0, "display_name": "새 부품"}
    )
    assert made.status_code == 201, made.text
    assert (await plant.replay(letters["llm"]))["resolved"] == 1


async def test_a_letter_of_the_bank_builder_can_be_put_back(plant: Plant) -> None:
    code = "small"
    await plant.http.put(f"/v1/products/{code}", json={"revision": 0, "display_name": "작은 부품"})
    await _send_normals(plant, code, 2)
    asked = await plant.http.post(f"/v1/products/{code}/banks")
    assert asked.status_code == 202, asked.text

    async def buried() -> Any:
        page = await plant.get("/v1/dead-letters", stage="bank-build", product=code)
        return page["dead_letters"]

    (letter,) = await until(buried, "the builder's letter")
    assert (letter["reason"], letter["image_id"]) == ("too_few_normals", None)
    await _send_normals(plant, code, 6)
    assert (await plant.replay(letter))["resolved"] == 1
    banks = await plant.get(f"/v1/products/{code}/banks")
    assert (await plant.letter(letter))["resolved_by"] == banks["banks"][0]["event_id"]


async def _send_normals(plant: Plant, code: str, count: int) -> None:
    files = [("file", (f"{n}.jpg", draw_part(60_000 + n))) for n in range(count)]
    answer = await plant.http.post(f"/v1/products/{code}/normals", files=files)
    assert answer.status_code == 200, answer.text


async def test_a_letter_of_the_record_stage_can_be_put_back(plant: Plant) -> None:
    # An upload that the record stage has never taken, since it was addressed to another one.
    event = _uploaded(b"record", "record-1", PRODUCT, plant.store.bucket)
    message = encode(event, source="/camera")
    hidden = replay_headers(message.headers, letter_id="none", run_id="none", stage="nobody")
    (place,) = await plant.sink.publish([message._replace(headers=hidden)])
    record = came_back(message, offset=place.offset)._replace(partition=place.partition)
    letter = bury(record, "record", reason="bug", when=datetime.now(UTC))
    await plant.sink.publish([encode(letter, source="/lineside/record")])
    letters = await plant.letters(place, 1)
    assert (await plant.replay(letters["record"]))["resolved"] == 1
    view = await plant.get(f"/v1/images/{event.subject.image_id}")
    assert view["subject"]["part_id"] == "record-1"


async def test_records_that_are_no_event_return_to_each_stage_that_could_not_read_them(
    plant: Plant,
) -> None:
    place = await plant.publish(Message("images.uploaded", b"press-1", b"\xff no event"))
    letters = await plant.letters(place, 3)
    assert set(letters) == {"anomaly", "embed", "record"}
    told = await plant.replay(*letters.values())
    assert (told["letters"], told["returned"]) == (3, 3)


async def test_a_replay_outlives_the_process_that_runs_it_and_puts_each_letter_back_once(
    plant: Plant,
) -> None:
    events = [await plant.upload(keep=False) for _ in range(6)]
    letters = [(await plant.letters(event, 2))["anomaly"] for event in events]
    for event in events:
        await plant.mend(event)
    order = {"ids": [one["event_id"] for one in letters], "rate_per_s": 4}
    begun = (await plant.http.post("/v1/dead-letters/replay", json=order)).json()

    async def midway() -> bool:
        return bool((await plant.get(begun["progress_url"]))["put_back"] >= 2)

    await until(midway, "two letters to be put back")
    web = plant.running.supervisor.children["web"].process
    assert web is not None
    web.send_signal(signal.SIGKILL)
    await web.wait()

    async def back() -> bool:
        try:
            return (await plant.http.get("/health")).status_code == 200
        except httpx.TransportError:
            return False

    await until(back, "the web role to be started again")
    told = await plant.answered(begun["progress_url"])
    assert (told["put_back"], told["resolved"], told["returned"]) == (6, 6, 0)
    for event in events:
        # The upload, and what was put back for the anomaly stage: once, or as often as the
        # relay could not note that it had published it.
        assert await plant.records("images.uploaded", event.subject.image_id) in {2, 3}
        scored = await plant.get(f"/v1/images/{event.subject.image_id}")
        assert scored["scored"]["verdict"] in {"OK", "NG", "REVIEW"}


async def test_the_command_lists_shows_counts_and_puts_back(plant: Plant, tmp_path: Path) -> None:
    event = await plant.upload(keep=False)
    letters = await plant.letters(event, 2)
    letter_id = letters["embed"]["event_id"]
    code, out, _ = await plant.lineside("list", "--stage", "embed", "--since", "1h", "--json")
    listed = json.loads(out)
    assert code == 0
    assert letter_id in {one["event_id"] for one in listed["dead_letters"]}
    await plant.mend(event)
    picture = tmp_path / "part.jpg"
    code, out, _ = await plant.lineside("show", letter_id, "--save-image", str(picture))
    assert code == 0
    assert "object_missing" in out
    assert picture.read_bytes()[:2] == b"\xff\xd8"
    ids = [one["event_id"] for one in letters.values()]
    code, out, _ = await plant.lineside("replay", *ids, "--dry-run")
    assert (code, out.strip()) == (0, "2 dead letters")
    code, _, err = await plant.lineside("replay", *ids)
    assert code != 0
    assert "--yes" in err
    code, out, err = await plant.lineside("replay", *ids, "--yes", "--json", "--by", "lee")
    assert code == 0, err
    told = json.loads(out)
    assert (told["resolved"], told["requested_by"]) == (2, "lee")
    code, out, _ = await plant.lineside("replay", ids[0], "--yes")
    assert code == 2


async def test_an_interrupted_command_stops_the_replay_and_says_how_to_go_on(
    plant: Plant,
) -> None:
    events = [await plant.upload(keep=False) for _ in range(3)]
    letters = [(await plant.letters(event, 2))["anomaly"] for event in events]
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("lineside")), "dead-letters", "replay",
        *(one["event_id"] for one in letters), "--yes", "--rate", "0.1",
        "--url", plant.running.url, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip

    async def begun() -> Any:
        runs = (await plant.get("/v1/dead-letter-replays", limit=1))["replays"]
        return runs if runs[0]["letters"] == 3 and runs[0]["put_back"] == 1 else None

    (run,) = await until(begun, "the first letter to be put back")
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert f"replay --resume {run['replay_id']}" in err.decode()
    told = await plant.get(run["progress_url"])
    assert (told["state"], told["left"]) == ("stopped", 2)


async def test_every_replay_is_on_record(plant: Plant) -> None:
    letters = await plant.letters(await plant.upload(keep=False), 2)
    told = await plant.replay(letters["embed"], requested_by="choi", reason="a try")

    def pages() -> list[Any]:
        with Client(plant.running.url) as client:
            return list(client.pages("/v1/dead-letter-replays", "replays", limit=3))

    runs = {run["replay_id"]: run for run in await asyncio.to_thread(pages)}
    run = runs[told["replay_id"]]
    assert (run["requested_by"], run["reason"], run["returned"]) == ("choi", "a try", 1)
    assert run["chosen"] == {"ids": [letters["embed"]["event_id"]]}
    for run in runs.values():
        assert run["letters"] == run["left"] + run["put_back"] + run["passed_over"]
