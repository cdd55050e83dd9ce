"""A web role alone, with images whose results were written into its tables by hand."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from PIL import Image

from adapters.objects_local import LocalObjects
from adapters.sql.engine import open_database
from adapters.sql.inspections import SqlInspections
from adapters.sql.outbox import SqlOutbox
from app.client import Client
from app.settings import Settings
from app.up import Running
from schemas.anomalies import HeatmapScale, ImageScored, NearestNormal, Region
from schemas.embeddings import ImageEmbedded, Neighbour
from schemas.event import Event, result_fields, uploaded_event_id
from schemas.images import ImageUploaded
from schemas.reports import Citation, Claim, ImageExplained, Report
from schemas.subject import Subject
from tests.plant import PRODUCT, draw_part
from tests.story import START, Story

CASES = 5


def set_up_product(url: str) -> tuple[list[str], str]:
    """Make the product with its cases and a normal picture; returns case ids and its sha256."""
    with Client(url) as client:
        client.put_product(
            PRODUCT,
            display_name="병뚜껑",
            display_name_en="Bottle cap",
            policy={"anomaly": "auto", "report": "auto"},
        )
        path = f"/v1/products/{PRODUCT}"
        client.call(
            "POST",
            f"{path}/defect-types",
            json={"code": "scratch", "name_ko": "긁힘", "name_en": "Scratch"},
        )
        files = [("file", (f"c{n}.jpg", draw_part(900 + n, defect=True))) for n in range(CASES)]
        cases = client.call("POST", f"{path}/cases", files=files, data={"defect_type": "scratch"})
        normal = client.call("POST", f"{path}/normals", files=[("file", ("n.jpg", draw_part(1)))])
    return [case["case_id"] for case in cases["files"]], normal["files"][0]["sha256"]


def send(url: str, number: int, *, defect: bool = False, part_id: str | None = None) -> Subject:
    """Upload one part; returns the subject that the server made of it."""
    with Client(url) as client:
        fields = {"product": PRODUCT, "source": "cam-1", "station": "OP-40", "lot_id": "L-7"}
        fields["part_id"] = part_id or f"BC-{number:05}"
        file = ("part.jpg", draw_part(number, defect=defect))
        answer = client.call("POST", "/v1/images", data=fields, files=[("file", file)])
        return Subject.model_validate(client.get(answer["status_url"])["subject"])


def results(subject: Subject, verdict: str, cases: Sequence[str], normal: str) -> list[Event]:
    """Everything that the stages would say of an image."""
    now = datetime.now(UTC)
    uploaded = ImageUploaded(
        event_id=uploaded_event_id(subject.image_id), occurred_at=now, subject=subject
    )
    near = [
        Neighbour(
            case_id=case,
            image_key="cases/x",
            product=PRODUCT,
            defect_type="scratch",
            similarity=0.93 - 0.04 * place,
            decision="ng",
            decided_at=now - timedelta(days=9 + place),
            action_taken="이송 롤러 이물 제거",
        )
        for place, case in enumerate(cases)
    ]
    outline = ((120, 90), (200, 90), (200, 150), (120, 150))
    region = Region(x=120, y=90, width=80, height=60, area_px=420, score=2.4, outline=outline)
    is_bad = verdict != "OK"
    fields = result_fields("anomaly", uploaded, now)
    scored = ImageScored(
        **fields,
        verdict=verdict,
        reason="above_threshold" if is_bad else "below_threshold",
        score=2.4 if is_bad else 0.7,
        threshold=1.0,
        map_threshold=0.9,
        heatmap_key=f"heatmaps/{fields['event_id']}.png",
        heatmap_scale=HeatmapScale(low=0.5, high=2.0, cell_px=8),
        regions=(region,) if is_bad else (),
        nearest_normal=NearestNormal(image_key=f"normals/{PRODUCT}/{normal}", distance=0.7),
    )
    embedded = ImageEmbedded(
        **result_fields("embed", uploaded, now),
        model="m",
        index_version="1",
        neighbours=tuple(near),
        voted_defect_type="scratch",
        voted_confidence=0.9,
    )
    return [embedded, scored, *([_report(scored, now)] if is_bad else [])]


def _report(scored: ImageScored, now: datetime) -> ImageExplained:
    quote = "긁힘이 보이는 부품을 격리하고 라인을 3분 동안 멈춘다."
    report = Report(
        language="ko",
        immediate_action=(Claim(text=quote, citations=("1",)),),
        safety_notes=(Claim(text="가이드를 만지기 전에 전원을 차단한다.", citations=("1",)),),
        checks=(Claim(text="이송 가이드의 간격을 잰다.", citations=("1",)),),
        citations=(Citation(id="1", document="병뚜껑 검사 지침", page=1, quote=quote),),
        model="extractive",
        prompt_version="1",
        index_version="1",
    )
    fields = result_fields("llm", scored, now)
    return ImageExplained(**fields, report=report, model="extractive", refused=False)


async def write_results(settings: Settings, events: Sequence[Event]) -> None:
    """Record them as the record stage would, and keep the heatmaps that they name."""
    store = LocalObjects(settings.state_dir / "objects")
    out = io.BytesIO()
    Image.new("RGBA", (40, 30), (255, 200, 0, 128)).save(out, "PNG")
    for event in events:
        if isinstance(event, ImageScored):
            key = str(event.heatmap_key)
            await store.put(key, out.getvalue(), content_type="image/png")
    store.close()
    async with open_database(settings.database_url) as database:
        await SqlInspections(database).save(events)


async def write_past(settings: Settings, source: str, *, ago_s: float, every_s: float) -> None:
    """Record that a camera sent and was judged for ten minutes, until `ago_s` ago."""
    last_s = (datetime.now(UTC) - START).total_seconds() - ago_s
    stories = [
        Story(f"{source}-{n}", received_s=last_s - n * every_s, source=source, product=PRODUCT)
        for n in range(int(600 / every_s))
    ]
    async with open_database(settings.database_url) as database:
        outbox = SqlOutbox(database, source="/camera", on_append=lambda: None)
        await outbox.append([story.uploaded for story in stories])
        await SqlInspections(database).save([story.scored("OK") for story in stories])


async def fill(running: Running, settings: Settings, *, long_name: str) -> str:
    """Fill the page: good parts, one with a long name, one for review, one NG; returns the NG."""
    cases, normal = await asyncio.to_thread(set_up_product, running.url)
    events: list[Event] = []
    for number in range(8):
        subject = await asyncio.to_thread(send, running.url, number)
        events += results(subject, "OK", cases, normal)
    named: dict[str, Any] = {"part_id": long_name}
    subject = await asyncio.to_thread(send, running.url, 50, **named)
    events += results(subject, "REVIEW", cases, normal)
    subject = await asyncio.to_thread(send, running.url, 77, defect=True)
    events += results(subject, "NG", cases, normal)
    await write_results(settings, events)
    return subject.image_id
