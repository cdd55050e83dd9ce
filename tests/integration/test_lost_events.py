"""The log loses events for good: each cause on Apache Kafka, and each image is complete at last."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from adapters.kafka import source
from adapters.kafka.admin import open_admin
from app.cli.topics import _reset_group
from app.settings import KafkaSettings, Settings
from pipeline.reconciling import group_of
from tests.lost_log_rig import STAGES, LostLogRig
from tests.services import kafka_server
from tests.tables import fresh_sqlite, sql_tables

pytestmark = pytest.mark.needs_kafka
JUDGES = ("embed", "anomaly", "llm")


@pytest.fixture(scope="module")
def damaged_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Kafka that no other file reads from."""
    with kafka_server(tmp_path_factory.mktemp("damaged")) as servers:
        yield servers


@pytest.fixture
async def rig(
    damaged_kafka: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LostLogRig]:
    url = await fresh_sqlite(tmp_path_factory.getbasetemp() / "template.db", tmp_path)
    async with sql_tables(url) as tables:
        rig = LostLogRig(damaged_kafka, tables)
        await rig.apply_topics()
        await rig.start_afresh()
        yield rig
        await rig.sink.close()


@pytest.fixture
def quick_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let members ask ten times as often as shipped which topics there are: they notice sooner."""
    shipped = source.consumer_options()
    # What `rig.complete` then waits for; the client's own default is five minutes.
    assert shipped["metadata_max_age_ms"] <= 30_000
    quick = {**shipped, "metadata_max_age_ms": shipped["metadata_max_age_ms"] // 10}
    monkeypatch.setattr(source, "consumer_options", lambda: dict(quick))


def rows(rig: LostLogRig) -> list[tuple[str, int]]:
    """Results that a stage gave more than once."""
    assert rig.tables.database is not None
    path = make_url(rig.tables.database.url).database
    with sqlite3.connect(str(path)) as tables:
        return tables.execute(
            "SELECT image_id, count(*) FROM inspections "
            "GROUP BY image_id, stage HAVING count(*) > 1"
        ).fetchall()


def brought_back(rig: LostLogRig) -> float:
    lines = rig.telemetry.exposition().decode().splitlines()
    return sum(float(x.rpartition(" ")[2]) for x in lines if x.startswith("lineside_reconciled_t"))


async def test_images_of_a_topic_that_was_deleted_and_made_anew_come_back(rig: LostLogRig) -> None:
    async with rig.running("record"):
        lost = [*await rig.accept(5), *await rig.publish_directly(3)]
        await rig.relayed()
        await rig.caught_up("record")
    await rig.recreate("images.uploaded")
    async with rig.running(*STAGES), rig.reconciling():
        await rig.complete(lost)
        later = await rig.accept(3)
        await rig.complete(later)
    assert rows(rig) == []
    assert brought_back(rig) >= len(lost)


@pytest.mark.usefixtures("quick_metadata")
async def test_a_topic_made_anew_under_running_workers_loses_nothing(rig: LostLogRig) -> None:
    async with rig.running(*STAGES), rig.reconciling():
        await rig.complete(await rig.accept(4))
        await rig.recreate("images.uploaded")
        stories = await rig.accept(6)
        await rig.complete(stories)
    assert rows(rig) == []


async def test_records_deleted_before_a_stage_read_them_stop_it_until_a_person_moves_it(
    rig: LostLogRig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with rig.running(*STAGES):
        await rig.complete(await rig.accept(6))
    async with rig.running("record"):
        lost = [*await rig.accept(4), *await rig.publish_directly(2)]
        await rig.relayed()
        await rig.caught_up("record")
    await rig.delete_records("images.uploaded")
    settings = Settings(
        state_dir=tmp_path / "state", kafka=KafkaSettings(bootstrap_servers=rig.servers)
    )
    async with rig.running(*STAGES), rig.reconciling():
        async with open_admin(rig.connection) as admin:
            before = await admin.committed(group_of("embed"), ["images.uploaded"])
        while not {"embed", "anomaly"} <= {stop.partition(":")[0] for stop in rig.stops}:
            await rig.relayed()
        assert all("topics reset-group" in stop for stop in rig.stops), rig.stops
        for stage in ("embed", "anomaly"):
            assert (
                await _reset_group(settings, stage, to_end=False, everything=False, yes=False) == 0
            )
        async with open_admin(rig.connection) as admin:
            assert await admin.committed(group_of("embed"), ["images.uploaded"]) == before
        assert "nothing was changed" in capsys.readouterr().out
        for stage in ("embed", "anomaly"):
            assert (
                await _reset_group(settings, stage, to_end=False, everything=False, yes=True) == 0
            )
        await rig.complete(lost)
    acts = (tmp_path / "state" / "logs" / "audit.log").read_text().splitlines()
    assert {json.loads(act)["group"] for act in acts} == {"lineside.embed", "lineside.anomaly"}
    assert rows(rig) == []
    assert brought_back(rig) >= len(lost)


async def test_images_come_back_when_offsets_expired_and_the_log_had_gone_on(
    rig: LostLogRig,
) -> None:
    async with rig.running(*STAGES):
        await rig.complete(await rig.accept(2))
    async with rig.running("record"):
        lost = await rig.accept(5)
        await rig.relayed()
        await rig.caught_up("record")
    await rig.delete_records("images.uploaded")
    for stage in JUDGES:
        await rig.forget_offsets(stage)
    async with rig.running(*STAGES), rig.reconciling():
        await rig.complete(lost)
    assert rig.stops == []
    assert rows(rig) == []


async def test_images_come_back_when_a_group_was_moved_past_them(rig: LostLogRig) -> None:
    lost = await rig.accept(5)
    async with rig.running():
        await rig.relayed()
    async with open_admin(rig.connection) as admin:
        ends = {p: held.end for p, held in (await admin.log_ranges(["images.uploaded"])).items()}
        for stage in ("embed", "anomaly"):
            await admin.move_group(group_of(stage), ends)
    async with rig.running(*STAGES), rig.reconciling():
        await rig.complete(lost)
    assert rows(rig) == []


async def test_results_lost_before_they_were_recorded_are_made_again_under_their_ids(
    rig: LostLogRig,
) -> None:
    lost = await rig.accept(5)
    async with rig.running(*JUDGES):
        await rig.relayed()
        for stage in JUDGES:
            await rig.caught_up(stage)
    for topic in ("images.embedded", "images.scored", "images.skipped"):
        await rig.recreate(topic)
    async with rig.running(*STAGES), rig.reconciling():
        await rig.complete(lost)
    assert rows(rig) == []


async def test_a_backlog_is_worked_off_and_nothing_of_it_is_published_twice(
    rig: LostLogRig,
) -> None:
    stories = await rig.accept(40)
    async with rig.running("record"), rig.reconciling():
        await rig.relayed()
        await rig.caught_up("record")
        async with rig.running("embed", relay=False):
            await rig.answered("embed", stories)
        async with rig.running("anomaly", "llm", relay=False):
            await rig.complete(stories)
    assert brought_back(rig) == 0
