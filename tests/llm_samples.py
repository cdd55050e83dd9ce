"""A product, its manuals and findings, for the tests of the llm stage."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from consumers.llm.finding import Finding, names_of_type
from consumers.llm.manual_files import read_manual
from consumers.llm.manuals import Chunk, chunk_manual
from consumers.llm.tokens import KiwiTokenizer
from schemas.anomalies import ImageScored
from schemas.configuration import ManualPublished, ProductConfigured
from schemas.embeddings import ImageEmbedded
from schemas.event import Event
from schemas.images import InspectionRequested
from schemas.message import Message, Position

# One for all tests: its model takes a second and 400 MB to load, at the first Korean text.
KIWI = KiwiTokenizer()
NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
PRODUCT = "커넥터"

KOREAN = """---
title: 커넥터 하우징 불량 대응 매뉴얼
revision: R7
language: ko
---
# 커넥터 하우징 불량 대응 매뉴얼

## 1. 공통 조치

### 1.1 즉시 조치
- 해당 부품을 빨간 상자에 격리하고 라인 반장에게 알린다.
- 직전 30개를 다시 검사한다.

### 1.2 점검
- 조명 밝기가 800 lx 이상인지 확인한다.

### 1.3 재발 방지
- 카메라 렌즈를 매일 닦는다.

---

## 2. 스크래치

### 2.1 현상
표면에 가늘고 긴 흠이 보인다. 심각도: 경미

### 2.2 즉시 조치
- 이송 벨트를 정지하고 스크래치가 난 부품을 분리한다.

### 2.3 원인
- 이송 벨트 가이드에 낀 금속 칩이 표면을 긁는다.
- 가이드 간격이 0.2 mm보다 좁다.

### 2.4 조치
- 가이드 간격을 0.5 mm로 조정한다.
- 가이드를 부직포로 닦는다. 금속 솔을 사용하지 않는다.

### 2.5 안전
경고: 벨트 전원을 차단하고 잠금 표지를 건 뒤에 손을 넣는다.

---

## 3. 미성형

### 3.1 즉시 조치
- 사출기를 정지하고 금형 온도를 기록한다.

### 3.2 원인
- 수지 온도가 230 °C보다 낮다.
"""

ENGLISH = """---
title: Connector housing response manual
revision: R7
language: en
---
# Connector housing response manual

## Common actions

### Immediate action
- Put the part into the red box and tell the line leader.

## Scratch

### Immediate action
- Stop the transfer belt and set the scratched part aside.

### Causes
- A metal chip caught in the belt guide scratches the surface.

### Correction
- Set the guide gap to 0.5 mm and clean the guide with fleece.
"""


def manual_event(
    text: str | bytes, *, file_name: str = "manual.md", **fields: Any
) -> ManualPublished:
    data = text.encode() if isinstance(text, str) else text
    digest = hashlib.sha256(data).hexdigest()
    values = {
        "event_id": uuid5(NAMESPACE_URL, digest + file_name),
        "occurred_at": NOW,
        "manual_id": f"m-{digest[:8]}",
        "product": PRODUCT,
        "title": file_name,
        "file_name": file_name,
        "content_type": "application/octet-stream",
        "key": f"manuals/{digest}",
        "sha256": digest,
        "size_bytes": len(data),
    }
    return ManualPublished.model_validate(values | fields)


def chunks_of(*texts: str) -> tuple[Chunk, ...]:
    found: list[Chunk] = []
    for text in texts:
        event = manual_event(text)
        read = read_manual(text.encode(), file_name="manual.md", content_type="text/markdown")
        found += chunk_manual(event, read)
    return tuple(found)


def subject(report: str = "auto", image_id: str = "a" * 32) -> dict[str, Any]:
    image = {
        "bucket": "images",
        "key": "images/" + "0" * 64,
        "sha256": "0" * 64,
        "size_bytes": 10,
        "width": 900,
        "height": 600,
    }
    return {
        "image_id": image_id,
        "product": PRODUCT,
        "captured_at": NOW,
        "received_at": NOW,
        "image": image,
        "requested": {"anomaly": "auto", "report": report},
    }


def scored(verdict: str = "NG", *, report: str = "auto", **fields: Any) -> ImageScored:
    values = {
        "event_id": uuid5(NAMESPACE_URL, f"scored {verdict} {report}"),
        "occurred_at": NOW,
        "subject": subject(report),
        "stage": "anomaly",
        "trigger_event_id": UUID(int=1),
        "origin_event_id": UUID(int=1),
        "origin_at": NOW,
        "verdict": verdict,
        "reason": "over_threshold",
        "score": 3.25,
        "threshold": 2.1,
        "bank_version": "b1",
        "regions": [{"x": 30, "y": 40, "width": 120, "height": 80, "area_px": 900, "score": 3.25}],
    }
    return ImageScored.model_validate(values | fields)


def embedded(voted: str | None, *, confidence: float = 0.8) -> ImageEmbedded:
    case = {
        "case_id": "c-1",
        "image_key": "cases/1",
        "product": PRODUCT,
        "defect_type": voted,
        "similarity": 0.91,
        "action_taken": "가이드를 닦음",
    }
    return ImageEmbedded.model_validate(
        {
            "event_id": uuid5(NAMESPACE_URL, f"embedded {voted}"),
            "occurred_at": NOW,
            "subject": subject(),
            "stage": "embed",
            "trigger_event_id": UUID(int=1),
            "origin_event_id": UUID(int=1),
            "origin_at": NOW,
            "model": "m",
            "index_version": "i",
            "neighbours": [case],
            "voted_defect_type": voted,
            "voted_confidence": confidence if voted else None,
        }
    )


def product(**fields: Any) -> ProductConfigured:
    values = {
        "event_id": UUID(int=5),
        "occurred_at": NOW,
        "product": PRODUCT,
        "display_name": "커넥터",
        "policy": {"anomaly": "auto", "report": "auto"},
        "revision": 3,
    }
    return ProductConfigured.model_validate(values | fields)


def request(stage: str = "llm", **fields: Any) -> InspectionRequested:
    values = {
        "event_id": UUID(int=9),
        "occurred_at": NOW,
        "subject": subject(),
        "stage": stage,
        "requested_by": "op",
    }
    return InspectionRequested.model_validate(values | fields)


def finding(voted: str | None, *, language: str = "ko", verdict: str = "NG") -> Finding:
    event = scored(verdict)
    names = names_of_type(voted)
    return Finding(event, event, embedded(voted), product(language=language), names)


@dataclass
class KeptInspections:
    """The one method of `Inspections` that the stage asks."""

    current_events: dict[str, Event] = field(default_factory=dict)

    async def current(self, image_id: str, stage: str) -> Event | None:
        return self.current_events.get(stage)


@dataclass
class KeptProducts:
    events: Mapping[str, ProductConfigured]

    async def lookup(self, key: str) -> ProductConfigured | None:
        return self.events.get(key)


@dataclass
class KeptSink:
    """Keeps what is published; raises `error` instead when there is one."""

    messages: list[Message] = field(default_factory=list)
    error: Exception | None = None

    async def publish(self, messages: Sequence[Message]) -> Sequence[Position]:
        if self.error:
            raise self.error
        self.messages += messages
        return [Position(message.topic, 0, 0) for message in messages]


async def until(condition: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Wait for what another task does."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - the point of this function
            await asyncio.sleep(0.005)
