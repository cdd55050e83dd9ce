"""Replays on a real Kafka, beside running roles and without any."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import httpx
import pytest
import pytest_asyncio

from adapters.kafka.admin import open_admin
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.sink import KafkaSink
from app.client import Client
from app.replay.request import read_offsets
from app.resources import open_store
from app.settings import Settings
from app.up import Running
from pipeline.errors import ConfigError
from schemas.anomalies import ImageScored
from schemas.codec import encode
from schemas.dead_letters import DeadLetter
from schemas.images import ImageUploaded
from schemas.topics import DAY_MS
from tests.plant import PRODUCT, draw_part, plant_settings, running_plant, teach, write_product
from tests.replay_rig import Command, Json, comparable, events_in, live_state

pytestmark = [pytest.mark.needs_kafka, pytest.mark.asyncio(loop_scope="module")]

IMAGES = 10
BAD = 2
CASES = 4
ROLES = ("web", "anomaly", "embed", "record")
DEADLINE_S = 90.0


@dataclass(frozen=True)
class Scene:
    """A plant whose roles have stopped; what they left, and what a replay beside them did."""

    settings: Settings
    command: Command
    other_bank: str
    beside: dict[str, Json]
    before: Json
    after: Json


async def _send(http: httpx.AsyncClient, number: int) -> str:
    answer = await http.post(
        "/v1/images",
        data={"product": PRODUCT, "part_id": f"part-{number}", "station": f"s{number % 3}"},
        files={"file": ("x.jpg", draw_part(90_000 + number, defect=number % 3 == 0))},
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["image_id"])


async def _publish_bad(running: Running) -> None:
    """Events whose pictures are not in the store: each stage buries them."""
    events = await events_in(running.bootstrap_servers, "images.uploaded")
    sink = KafkaSink(KafkaConnection(running.bootstrap_servers))
    bad = []
    for number, event in enumerate(list(events.values())[:BAD]):
        assert isinstance(event, ImageUploaded)
        image = event.subject.image.model_copy(update={"key": f"images/missing-{number}"})
        subject = event.subject.model_copy(
            update={"image": image, "image_id": f"{number:032x}", "part_id": f"bad-{number}"}
        )
        bad.append(
            ImageUploaded(
                event_id=UUID(subject.image_id), occurred_at=event.occurred_at, subject=subject
            )
        )
    await sink.publish([encode(event, source="/test") for event in bad])
    await sink.close()


async def _settled(http: httpx.AsyncClient, image_ids: list[str]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    for image_id in image_ids:
        while True:
            answer = await http.get(f"/v1/images/{image_id}")
            view = answer.json() if answer.status_code == 200 else {}
            outcomes = {letter["stage"] for letter in view.get("dead_letters", ())}
            done = view.get("scored") and view.get("embedded")
            if done or outcomes >= {"anomaly", "embed"}:
                break
            assert time.monotonic() < deadline, answer.text
            await asyncio.sleep(0.1)


async def _quiet(servers: str, settings: Settings) -> Json:
    """Return the state once nothing changes any more: commits follow results by a moment."""
    state = await live_state(settings, servers)
    while True:
        await asyncio.sleep(0.5)
        again = await live_state(settings, servers)
        if again == state:
            return state
        state = again


async def _search(http: httpx.AsyncClient, image_id: str) -> Json:
    """What the search finds among all cases, and the version of its index."""
    answer = await http.post("/v1/search", json={"image_id": image_id, "k": 50})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def _indexed(http: httpx.AsyncClient) -> None:
    """Wait until the search knows every case: an image's neighbours depend on that."""
    deadline = time.monotonic() + DEADLINE_S
    file = {"file": ("x.jpg", draw_part(1))}
    while True:
        answer = await http.post("/v1/search", data={"product": PRODUCT, "k": "50"}, files=file)
        if answer.status_code == 200 and len(answer.json()["results"]) == CASES:
            return
        assert time.monotonic() < deadline, answer.text
        await asyncio.sleep(0.1)


def _second_bank(url: str) -> str:
    """Build another bank, from more photos, that does not judge; returns its version."""
    with Client(url) as client:
        parts = [("file", (f"{n}.jpg", draw_part(700 + n))) for n in range(6)]
        client.call("POST", f"/v1/products/{PRODUCT}/normals", files=parts)
        return str(client.build_bank(PRODUCT)["version"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    folder = tmp_path_factory.mktemp("replay")
    settings = plant_settings(folder / "state")
    root = write_product(folder / "data", normals=20, defects=CASES)
    async with (
        running_plant(settings, roles=ROLES) as running,
        httpx.AsyncClient(base_url=running.url, timeout=30, trust_env=False) as http,
    ):
        await asyncio.to_thread(teach, running.url, root)
        await _indexed(http)
        image_ids = [await _send(http, number) for number in range(IMAGES)]
        await _settled(http, image_ids)
        await _publish_bad(running)
        await _settled(http, [f"{number:032x}" for number in range(BAD)])
        other = await asyncio.to_thread(_second_bank, running.url)
        command = Command(settings, running.bootstrap_servers)
        index = await _search(http, image_ids[0])
        before = {**await _quiet(running.bootstrap_servers, settings), "index": index}
        beside = {
            "anomaly": await command.replay("beside"),
            "embed": await command.replay("beside-embed", "embed"),
            "llm": await command.replay("beside-llm", "llm", topic="images.scored", every=True),
        }
        after = await live_state(settings, running.bootstrap_servers)
        after["index"] = await _search(http, image_ids[0])
    async with running_plant(settings, roles=()) as running:
        command = Command(settings, running.bootstrap_servers)
        yield Scene(settings, command, other, beside, before, after)


async def test_a_replay_beside_running_roles_changes_no_group_table_object_or_index(
    scene: Scene,
) -> None:
    assert scene.before["groups"].keys() >= {"lineside.anomaly", "lineside.embed"}
    assert scene.before["rows"]["inspections"] >= 2 * IMAGES
    assert len(scene.before["index"]["results"]) == CASES
    for part, value in scene.before.items():
        assert scene.after[part] == value, part


async def test_the_summary_adds_up(scene: Scene) -> None:
    for stage, summary in scene.beside.items():
        whole = IMAGES if stage == "llm" else IMAGES + BAD
        assert summary["read"] == whole
        assert summary["read"] == (
            summary["skipped"] + summary["processed"] + summary["unfinished"]
        )
        assert summary["processed"] == (
            summary["published"] + summary["dead_lettered"] + summary["silent"]
        )
        assert summary["dead_lettered"] == (0 if stage == "llm" else BAD)
        assert sum(summary["by_verdict"].values()) == summary["published"]
        assert (summary["unfinished"], summary["error"]) == (0, None)
        assert sum(stop - start for start, stop in summary["offsets"].values()) == whole
    assert scene.beside["anomaly"]["by_verdict"]["NG"] >= 3


async def test_the_same_version_says_the_same_as_it_did_live(scene: Scene) -> None:
    servers = scene.command.servers
    for replay, live in (("beside", "images.scored"), ("beside-embed", "images.embedded")):
        theirs = await events_in(servers, live)
        events = await events_in(servers, f"replays.{replay}")
        mine = {key: one for key, one in events.items() if not isinstance(one, DeadLetter)}
        assert len(mine) == IMAGES
        assert {key: comparable(one) for key, one in mine.items()} == {
            key: comparable(one) for key, one in theirs.items()
        }
        letters = [one for one in events.values() if isinstance(one, DeadLetter)]
        assert [letter.reason for letter in letters] == ["object_missing"] * BAD


async def test_a_replay_stores_its_heatmaps_apart_and_names_them(scene: Scene) -> None:
    events = await events_in(scene.command.servers, "replays.beside")
    scored = [event for event in events.values() if isinstance(event, ImageScored)]
    async with open_store(scene.settings) as store:
        for event in scored:
            assert event.heatmap_key == f"replays/beside/heatmaps/{event.event_id}.png"
            assert (await store.get(event.heatmap_key)).startswith(b"\x89PNG")


async def test_without_any_role_two_replays_give_equal_events_and_touch_nothing(
    scene: Scene,
) -> None:
    command = scene.command
    before = await live_state(scene.settings, command.servers)
    for name in ("once", "again"):
        await command.replay(name, bank=scene.other_bank, product=PRODUCT, rate=50)
    assert await live_state(scene.settings, command.servers) == before
    once, again = [
        {key: one for key, one in (await events_in(command.servers, f"replays.{name}")).items()
         if isinstance(one, ImageScored)}
        for name in ("once", "again")
    ]  # fmt: skip
    assert len(once) == IMAGES
    assert {one.bank_version for one in once.values()} == {scene.other_bank}
    assert {key: comparable(one) for key, one in once.items()} == {
        key: comparable(one) for key, one in again.items()
    }
    same = await command.diff("once", "again")
    assert (same["compared"], same["changed"]) == (IMAGES + BAD, 0)


async def test_diff_shows_what_another_threshold_would_have_said(scene: Scene) -> None:
    command = scene.command
    await command.replay("strict", product=PRODUCT, threshold=0.1)
    result = await command.diff("live", "strict", limit=3, with_reviews=True)
    assert result["compared"] == IMAGES + BAD
    assert set(result["by_kind"]) <= {"OK → NG", "REVIEW → NG"}
    assert result["changed"] == sum(result["by_kind"].values()) >= IMAGES - 4
    shifts = [abs(one["shift"]) for one in result["images"]]
    assert len(shifts) == 3
    assert shifts == sorted(shifts, reverse=True)
    assert result["reviews"]["a"]["reviewed"] == 0


async def test_an_older_revision_of_a_product_judges_again(scene: Scene) -> None:
    await scene.command.replay(
        "first", revision=1, bank=scene.other_bank, product=PRODUCT, every=True
    )
    events = (await events_in(scene.command.servers, "replays.first")).values()
    scored = [event for event in events if isinstance(event, ImageScored)]
    assert len(scored) == IMAGES
    assert {event.configuration_revision for event in scored} == {1}


async def test_reports_can_be_written_on_the_verdicts_of_a_replay(scene: Scene) -> None:
    summary = await scene.command.replay("told", "llm", topic="replays.beside", every=True)
    assert summary["published"] == IMAGES
    assert summary["silent"] == BAD  # dead letters are none of its business
    assert summary["version"]["model"] == "extractive"


async def test_times_and_offsets_choose_the_stretch(scene: Scene) -> None:
    command = scene.command
    now_ms = round(time.time() * 1000)
    nothing = await command.replay("nothing", since_ms=now_ms)
    assert nothing["read"] == 0
    some = await command.replay("by-time", since_ms=now_ms - DAY_MS, until_ms=now_ms, limit=4)
    assert some["processed"] == 4
    one = await command.replay(
        "by-offset", partitions=frozenset({0}), from_offsets={0: 1}, to_offsets={0: 2}
    )
    assert one["offsets"] == {"0": [1, 2]}
    assert one["read"] == 1


async def test_what_is_not_there_is_refused_with_what_there_is(scene: Scene) -> None:
    refusals: list[tuple[Json, str]] = [
        ({"bank": "nope", "product": PRODUCT}, scene.other_bank),
        ({"bank": "nope"}, "--product"),
        ({"revision": 99, "product": PRODUCT}, "there are: "),
        ({"product": "없음"}, PRODUCT),
        ({"model": "timm:nope"}, "timm:tf_efficientnet_lite0"),
        ({"from_offsets": {0: 999_999}}, "holds offsets 0 to"),
        ({"partitions": frozenset({77})}, "partitions 0 to 2"),
    ]
    for options, told in refusals:
        with pytest.raises(ConfigError) as refusal:
            await scene.command.replay("refused", **options)
        assert told in str(refusal.value), options
    with pytest.raises(ConfigError, match=r"there are: .*beside"):
        await scene.command.diff("live", "nope")
    assert "refused" not in {row["name"] for row in await scene.command.list()}


async def test_a_name_is_taken_once_unless_it_is_added_to(scene: Scene) -> None:
    command = scene.command
    options: Json = {"partitions": frozenset({0})}
    first = await command.replay("grown", to_offsets={0: 1}, **options)
    with pytest.raises(ConfigError, match=r"--append.*lineside replay remove grown"):
        await command.replay("grown", **options)
    second = await command.replay("grown", from_offsets={0: 1}, append=True, **options)
    with pytest.raises(ConfigError, match="choose another name"):
        await command.replay("grown", append=True, product=PRODUCT, bank=scene.other_bank)
    events = await events_in(command.servers, "replays.grown")
    assert len(events) == first["processed"] + second["processed"]


async def test_an_interrupted_replay_sums_up_what_it_did_and_can_go_on(scene: Scene) -> None:
    command = scene.command
    options = ("--stage", "anomaly", "--into", "cut", "--rate", "1", "--json")
    async with command.started("replay", *options) as process:
        async with open_admin(KafkaConnection(command.servers)) as admin:
            deadline = time.monotonic() + DEADLINE_S
            while sum(r.end for r in (await admin.log_ranges(["replays.cut"])).values()) < 2:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert process.returncode == 130, err.decode()
    summary = json.loads(out)
    assert summary["interrupted"]
    assert 2 <= summary["processed"] < IMAGES + BAD
    assert summary["read"] == summary["processed"] + summary["unfinished"]
    places = tuple(f"{place}:{span[1]}" for place, span in summary["offsets"].items())
    rest = await command.replay("cut", append=True, from_offsets=read_offsets(places))
    covered = sum(stop - start for start, stop in summary["offsets"].values())
    assert covered + rest["read"] == IMAGES + BAD


async def test_a_removed_replay_leaves_nothing_behind(scene: Scene) -> None:
    command = scene.command
    await command.replay("gone", limit=2)
    before = await live_state(scene.settings, command.servers)
    assert {"gone", "beside"} <= {row["name"] for row in await command.list()}
    await command.run("replay", "remove", "gone", "--yes")
    names = {row["name"] for row in await command.list()}
    assert "gone" not in names
    assert "beside" in names
    async with open_store(scene.settings) as store:
        assert [stat.key async for stat in store.list("replays/gone/")] == []
        assert [stat.key async for stat in store.list("replays/beside/")]
    assert await live_state(scene.settings, command.servers) == before
