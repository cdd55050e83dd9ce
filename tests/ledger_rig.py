"""A run that went well, as facts, in which a test then breaks one thing."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

from app.chaos.facts import CommitSeen, Entry, Facts, FeedSeen, Judgement, Row, Sent
from schemas.anomalies import ImageScored
from schemas.configuration import CaseRegistered
from schemas.dead_letters import DeadLetter, Origin
from schemas.embeddings import ImageEmbedded
from schemas.event import NAMESPACE, Event, ImageEvent, StageEvent, result_fields, uploaded_event_id
from schemas.images import ImageSkipped, ImageUploaded
from schemas.message import Position, TopicPartition
from schemas.reports import ImageExplained, Report
from schemas.subject import ImageRef, Subject
from schemas.topics import topic_of, topics_read_by

AT = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
BANK = "bank-1"
STATIONS = ("s0", "s1")
REPORT = Report(language="ko", model="scripted", prompt_version="1", index_version="1")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def subject_of(number: int, *, picture: str) -> Subject:
    sha256 = digest(picture)
    image = ImageRef(bucket="b", key=f"images/{sha256}", sha256=sha256, size_bytes=9)
    return Subject(
        image_id=digest(f"image-{number}")[:32],
        product="P",
        station=STATIONS[number % len(STATIONS)],
        captured_at=AT,
        received_at=AT,
        image=image,
    )


def letter_about(stage: str, entry: Entry, reason: str) -> DeadLetter:
    event = entry.event
    about: dict[str, Any] = {}
    if isinstance(event, ImageEvent):
        about = {"trigger_event_id": event.event_id, "subject": event.subject}
    return DeadLetter(
        event_id=uuid5(NAMESPACE, f"{stage}{entry.place}"),
        occurred_at=AT,
        stage=stage,
        origin=Origin(topic=entry.topic, partition=entry.partition, offset=entry.offset),
        reason=reason,
        error_class="E",
        error_text="what happened",
        attempts=1,
        first_attempt_at=AT,
        last_attempt_at=AT,
        **about,
    )


@dataclass
class History:
    """Six uploads over two stations: five good ones on three pictures, one broken picture.

    `log` may be edited at will: offsets are given when the facts are asked for.
    """

    sent: list[Sent] = field(default_factory=list)
    log: list[Entry] = field(default_factory=list)
    statuses: dict[str, str] = field(default_factory=dict)
    planted: dict[Position, dict[str, str]] = field(default_factory=dict)
    indexed: list[str] = field(default_factory=list)
    commits: list[CommitSeen] = field(default_factory=list)
    extra_rows: list[Row] = field(default_factory=list)
    keep_row: Callable[[Row], bool] = lambda _: True
    keep_seen: Callable[[Entry], bool] = lambda _: True
    gaps: int = 0
    _ends: dict[TopicPartition, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, event: Event | None, *, topic: str = "", key: str = "k") -> Entry:
        """Append an event to its topic; one partition a topic, so that keys share offsets."""
        if event is not None:
            row = topic_of(event)
            topic, key = row.name, row.key(event)
        place = TopicPartition(topic, 0)
        entry = Entry(topic, 0, self._ends[place], key, event)
        self._ends[place] += 1
        self.log.append(entry)
        return entry

    def upload(self, number: int, *, picture: str, buries: dict[str, str] | None = None) -> Entry:
        subject = subject_of(number, picture=picture)
        self.sent.append(
            Sent(
                subject.image_id, subject.image.sha256, subject.station or "", number, buries or {}
            )
        )
        self.statuses[subject.image_id] = "failed" if buries else "complete"
        event_id = uploaded_event_id(subject.image_id)
        return self.add(ImageUploaded(event_id=event_id, occurred_at=AT, subject=subject))

    def answer(self, entry: Entry, *, verdict: str = "OK", score: float = 1.0) -> None:
        """Let every stage answer an upload, as a quiet system does."""
        trigger = entry.event
        assert isinstance(trigger, ImageEvent)
        self.add(ImageEmbedded(**result_fields("embed", trigger, AT), model="m", index_version="1"))
        scored = ImageScored(
            **result_fields("anomaly", trigger, AT),
            verdict=verdict,
            reason="r",
            score=score,
            bank_version=BANK,
        )
        self.add(scored)
        fields = result_fields("llm", scored, AT)
        if verdict == "OK":
            self.add(ImageSkipped(**fields, reason="not_applicable"))
        else:
            self.add(ImageExplained(**fields, report=REPORT, model="m", refused=False))

    def commit_all(self, stage: str = "anomaly") -> None:
        """Let a group commit all that is in the log by now."""
        self.commits.append(CommitSeen(stage, dict(self._ends), dict(self._ends)))

    def replace(self, old: Entry, event: Event) -> None:
        """Put another event into the place of one."""
        self.log[self.log.index(old)] = old._replace(event=event)

    def swap(self, one: Entry, other: Entry) -> None:
        """Let two entries change places in the log."""
        first, second = self.log.index(one), self.log.index(other)
        self.log[first] = one._replace(event=other.event)
        self.log[second] = other._replace(event=one.event)

    def entries(self, kind: type[Event]) -> list[Entry]:
        return [entry for entry in self.log if isinstance(entry.event, kind)]

    def row_of(self, event: Event) -> Row | None:
        event_id = str(event.event_id)
        subject = getattr(event, "subject", None)
        image_id = subject.image_id if subject else None
        if isinstance(event, ImageUploaded):
            return Row("images", event_id, image_id)
        if isinstance(event, DeadLetter):
            return Row("dead_letters", event_id, image_id)
        if isinstance(event, StageEvent):
            trigger_id = str(event.trigger_event_id)
            verdict = getattr(event, "verdict", None)
            name, stage = event.type_name, event.stage
            return Row("inspections", event_id, image_id, name, stage, trigger_id, verdict)
        return None

    def rows(self) -> Iterable[Row]:
        known: set[UUID] = set()
        for entry in self.log:
            if entry.event is not None and entry.event.event_id not in known:
                known.add(entry.event.event_id)
                row = self.row_of(entry.event)
                if row is not None and self.keep_row(row):
                    yield row
        yield from self.extra_rows

    def facts(self) -> Facts:
        topics = topics_read_by("notifier")
        seen = {
            (entry.topic, str(entry.event.event_id))
            for entry in self.log
            if entry.event is not None and entry.topic in topics and self.keep_seen(entry)
        }
        judgements = {
            (digest("good"), BANK): Judgement("OK", 1.0),
            (digest("fine"), BANK): Judgement("OK", 1.2),
            (digest("scratched"), BANK): Judgement("NG", 3.0),
        }
        return Facts(
            sent=tuple(self.sent),
            log=tuple(self.log),
            rows=tuple(self.rows()),
            statuses=self.statuses,
            judgements=judgements,
            planted=self.planted,
            commits=tuple(self.commits),
            indexed=tuple(self.indexed),
            feed=FeedSeen({}, dict(self._ends), seen, self.gaps),
        )


def clean_history() -> History:
    """A run in which nothing went wrong, with poison that ended as it must."""
    history = History()
    for number, picture in enumerate(("good", "good", "scratched", "fine", "scratched")):
        verdict, score = {"good": ("OK", 1.0), "fine": ("OK", 1.2)}.get(picture, ("NG", 3.0))
        history.answer(history.upload(number, picture=picture), verdict=verdict, score=score)
        history.commit_all()
    buries = {"embed": "corrupt_image", "anomaly": "corrupt_image"}
    broken = history.upload(5, picture="broken", buries=buries)
    for stage, reason in buries.items():
        history.add(letter_about(stage, broken, reason))
    noise = history.add(None, topic="images.uploaded", key="s0")
    history.planted[noise.place] = dict.fromkeys(("embed", "anomaly", "record"), "not_json")
    for stage in history.planted[noise.place]:
        history.add(letter_about(stage, noise, "not_json"))
    for name in ("case-1", "case-2"):
        image = subject_of(0, picture="scratched").image
        history.add(
            CaseRegistered(
                event_id=uuid5(NAMESPACE, name),
                occurred_at=AT,
                case_id=name,
                product="P",
                image=image,
            )
        )
        history.indexed.append(name)
    history.commit_all()
    return history
