"""The one judge of a run: facts in, violations out. Pure; every promise is one check."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from app.chaos.book import ANSWERING, Book, Kind, Owed, Violation, name_of
from app.chaos.facts import CommitSeen, Entry, Facts
from schemas.anomalies import ImageScored
from schemas.configuration import CaseRegistered
from schemas.dead_letters import DeadLetter
from schemas.embeddings import ImageEmbedded
from schemas.event import Event, ImageEvent, StageEvent
from schemas.images import ImageSkipped, ImageUploaded, InspectionRequested
from schemas.message import Position
from schemas.reviews import ReviewRecorded
from schemas.topics import topics_read_by

UNORDERED = frozenset({"llm"})
_SCORE_TOLERANCE = 1e-3
_EXAMPLES = 5


def judge(facts: Facts) -> list[Violation]:
    """Return every broken promise, none for a clean run."""
    book = Book(facts)
    checks = (
        find_lost, find_wrong_results, find_wrong_letters, find_duplicates, find_double_rows,
        find_disorder, find_early_commits, find_miscounts, find_feed_gaps, find_index_faults,
    )  # fmt: skip
    return [violation for check in checks for violation in check(book)]


# -- nothing is lost ---------------------------------------------------------------------------
def find_lost(book: Book) -> Iterator[Violation]:
    """Every 202 is in the log, answered by every stage, in the tables and complete."""
    yield from _lost_uploads(book)
    for event_id in book.facts.acted:
        if event_id not in book.events:
            yield Violation("lost", f"review {event_id} was accepted and never published")
    for owed, entries in book.due.items():
        if owed not in book.answers:
            yield Violation("lost", f"{owed.stage} never answered {name_of(entries[0])}")
    kept = {(row.table, row.event_id) for row in book.facts.rows}
    for entry, event in book.of_type(Event):
        table = _table_of(event)
        if table is not None and (table, str(event.event_id)) not in kept:
            yield Violation("lost", f"{name_of(entry)} has no row in {table}")


def _lost_uploads(book: Book) -> Iterator[Violation]:
    published = {event.subject.image_id for _, event in book.of_type(ImageUploaded)}
    for image_id, sent in book.sent.items():
        if image_id not in published:
            yield Violation("lost", f"image {image_id} was accepted and never published")
        status = book.facts.statuses.get(image_id, "missing")
        if status != ("failed" if sent.buries else "complete"):
            yield Violation("lost", f"image {image_id} was accepted and GET says {status}")


def _table_of(event: Event) -> str | None:
    if isinstance(event, ImageUploaded):
        return "images"
    if isinstance(event, DeadLetter):
        return "dead_letters"
    if isinstance(event, ReviewRecorded):
        return "reviews"
    return "inspections" if isinstance(event, StageEvent | InspectionRequested) else None


# -- every answer is about what was sent -------------------------------------------------------
def find_wrong_results(book: Book) -> Iterator[Violation]:
    """Results are on the bytes that were sent, on the image that asked, and say what is right."""
    for entry, event in book.of_type(StageEvent):
        trigger = book.events.get(str(event.trigger_event_id))
        if not isinstance(trigger, ImageEvent):
            yield Violation("wrong result", f"{name_of(entry)} answers what nobody asked")
            continue
        subject, asked = event.subject, trigger.subject
        if (subject.image_id, subject.image.sha256) != (asked.image_id, asked.image.sha256):
            yield Violation(
                "wrong result", f"{name_of(entry)} is about another image than its cause"
            )
        sent = book.sent.get(subject.image_id)
        if sent is not None and sent.sha256 != subject.image.sha256:
            yield Violation("wrong result", f"{name_of(entry)} is about other bytes than were sent")
        if isinstance(event, ImageScored):
            yield from _wrong_verdict(book, entry, event)
    yield from _wrong_rows(book)


def _wrong_verdict(book: Book, entry: Entry, event: ImageScored) -> Iterator[Violation]:
    if "anomaly" in _wanted_burials(book, event):
        yield Violation("wrong result", f"{name_of(entry)}: {event.verdict} on a broken picture")
        return
    right = book.facts.judgements.get((event.subject.image.sha256, event.bank_version or ""))
    if right is None:
        if event.verdict == "ERROR":
            yield Violation("wrong result", f"{name_of(entry)}: ERROR, {event.reason}")
        return
    score = event.score or 0.0
    is_near = abs(score - right.score) <= _SCORE_TOLERANCE * max(1.0, abs(right.score))
    if event.verdict != right.verdict or not is_near:
        said, truth = f"{event.verdict} {score:.4f}", f"{right.verdict} {right.score:.4f}"
        yield Violation("wrong result", f"{name_of(entry)} says {said}, its bytes are {truth}")


def _wanted_burials(book: Book, event: StageEvent) -> Mapping[str, str]:
    sent = book.sent.get(event.subject.image_id)
    if sent is not None:
        return sent.buries
    causes = book.due.get(Owed(event.stage, str(event.trigger_event_id)), ())
    planted = book.facts.planted
    return next((planted[cause.place] for cause in causes if cause.place in planted), {})


def _wrong_rows(book: Book) -> Iterator[Violation]:
    for row in book.facts.rows:
        event = book.events.get(row.event_id or "")
        if event is None or row.table != "inspections":
            continue
        subject = getattr(event, "subject", None)
        said = (subject and subject.image_id, getattr(event, "verdict", None))
        if said != (row.image_id, row.verdict):
            told = f"{row.image_id} {row.verdict}"
            yield Violation("wrong result", f"row {row.event_id} says {told}, its event {said}")


def find_wrong_letters(book: Book) -> Iterator[Violation]:
    """Only what is poison is buried, by the stages that must and for its own reason."""
    placed: dict[Position, dict[str, str]] = defaultdict(dict)
    for entry, letter in book.of_type(DeadLetter):
        origin = letter.origin
        place = Position(origin.topic, origin.partition, origin.offset)
        placed[place][letter.stage] = letter.reason
        sent = book.sent.get(letter.subject.image_id) if letter.subject else None
        wanted = sent.buries if sent else book.facts.planted.get(place, {})
        if wanted.get(letter.stage) != letter.reason:
            text = f"{name_of(entry)}: {letter.stage} buried it for {letter.reason}"
            yield Violation("wrong dead letter", f"{text} ({letter.error_text[:120]})")
    for place, wanted in book.facts.planted.items():
        if placed[place] != wanted:
            yield Violation("wrong dead letter", f"{place}: {placed[place]} instead of {wanted}")


# -- once --------------------------------------------------------------------------------------
def find_duplicates(book: Book) -> Iterator[Violation]:
    """The same fact twice has the same id, and the same id says the same."""
    ids: dict[object, set[str]] = defaultdict(set)
    for _, event in book.of_type(ImageUploaded):
        ids["image", event.subject.image_id].add(str(event.event_id))
    for owed, entries in book.answers.items():
        events = [entry.event for entry in entries if entry.event is not None]
        for event in events:
            ids[_fact(owed, event)].add(str(event.event_id))
        if len({isinstance(event, DeadLetter) for event in events}) > 1:
            detail = f"{owed.stage} both answered and buried {owed.what}"
            yield Violation("unequal duplicate", detail)
    for fact, known in ids.items():
        if len(known) > 1:
            yield Violation("unequal duplicate", f"{fact} has {len(known)} ids: {sorted(known)}")
    yield from _unequal_copies(book)


def _unequal_copies(book: Book) -> Iterator[Violation]:
    for entry in book.facts.log:
        if entry.event is not None:
            first = book.events[str(entry.event.event_id)]
            if first is not entry.event and _essence(first) != _essence(entry.event):
                yield Violation("unequal duplicate", f"{name_of(entry)} differs from its first")


def _fact(owed: Owed, event: Event) -> object:
    """What must have one id: an answer per question, a dead letter per record."""
    if isinstance(event, DeadLetter):
        return (*owed, event.origin.topic, event.origin.partition, event.origin.offset)
    return owed


def _essence(event: Event) -> object:
    """What two deliveries of an event must agree on."""
    name = event.type_name
    if isinstance(event, ImageScored):
        rounded = None if event.score is None else round(event.score, 2)
        return (name, event.subject, event.verdict, rounded, event.bank_version)
    if isinstance(event, ImageEmbedded):
        return (name, event.subject, event.model)
    if isinstance(event, ImageSkipped):
        return (name, event.subject, event.reason)
    if isinstance(event, DeadLetter):
        return (name, event.stage, event.reason, event.origin.topic, event.origin.offset)
    if isinstance(event, StageEvent):
        return (name, event.subject, event.trigger_event_id)
    return (name, getattr(event, "subject", None))


def find_double_rows(book: Book) -> Iterator[Violation]:
    """No table holds an event, an image or an answer twice."""
    keys: Counter[tuple[object, ...]] = Counter()
    for row in book.facts.rows:
        keys[row.table, "event", row.event_id] += row.event_id is not None
        if row.table == "images":
            keys[row.table, "image", row.image_id] += 1
        if row.table == "inspections" and row.trigger_id is not None:
            keys[row.table, "answer", row.stage, row.trigger_id] += 1
    for key, count in keys.items():
        if count > 1:
            yield Violation("double row", f"{count} rows for {' '.join(map(str, key))}")


# -- in order, and never ahead of the work -----------------------------------------------------
def find_disorder(book: Book) -> Iterator[Violation]:
    """First deliveries of a key follow their causes, uploads the order of their answers."""
    lines: dict[tuple[object, ...], list[tuple[int, Entry]]] = defaultdict(list)
    for entry, event in book.of_type(ImageEvent):
        place = _place_in_line(book, event)
        if place is not None:
            line, number = place
            lines[(entry.topic, entry.key, *line)].append((number, entry))
    for members in lines.values():
        for (before, earlier), (after, later) in pairwise(members):
            if after < before:
                yield Violation("order", f"{name_of(later)} came after {name_of(earlier)}")


def _place_in_line(book: Book, event: ImageEvent) -> tuple[tuple[object, ...], int] | None:
    """Which line an event stands in beside its topic and key, and its place there."""
    if isinstance(event, ImageUploaded):
        sent = book.sent.get(event.subject.image_id)
        return None if sent is None else ((), sent.number)
    if not isinstance(event, StageEvent) or event.stage in UNORDERED:
        return None
    asked = book.due.get(Owed(event.stage, str(event.trigger_event_id)))
    if not asked or isinstance(asked[0].event, InspectionRequested):
        return None
    cause = asked[0]
    return (event.stage, cause.topic, cause.partition), cause.offset


def find_early_commits(book: Book) -> Iterator[Violation]:
    """Whatever a group had committed was answered in the log by then."""
    for seen in book.facts.commits:
        for owed, entries in book.due.items():
            if owed.stage == seen.stage and any(_is_passed(entry, seen) for entry in entries):
                answers = book.answers.get(owed, ())
                if not any(_was_there(answer, seen) for answer in answers):
                    text = f"{owed.stage} committed past {name_of(entries[0])} without its answer"
                    yield Violation("early commit", text)


def _is_passed(entry: Entry, seen: CommitSeen) -> bool:
    return entry.offset < seen.committed.get(_partition(entry), 0)


def _was_there(entry: Entry, seen: CommitSeen) -> bool:
    return entry.offset < seen.ends.get(_partition(entry), 0)


def _partition(entry: Entry) -> Any:
    return (entry.topic, entry.partition)


def find_miscounts(book: Book) -> Iterator[Violation]:
    """Per stage: what came in is what went out, what is held and what was buried."""
    for stage in ANSWERING:
        came = sum(owed.stage == stage for owed in book.due)
        answered = [entries for owed, entries in book.answers.items() if owed.stage == stage]
        buried = sum(isinstance(entries[0].event, DeadLetter) for entries in answered)
        held = book.facts.held.get(stage, 0)
        if came != len(answered) + held:
            out = len(answered) - buried
            detail = f"{stage}: {came} in, {out} out, {held} held, {buried} dead letters"
            yield Violation("miscount", detail)


# -- whoever looks sees it ---------------------------------------------------------------------
def find_feed_gaps(book: Book) -> Iterator[Violation]:
    """A client that stayed or came back by position got every event of its topics."""
    feed = book.facts.feed
    if feed is None:
        return
    if feed.gaps:
        yield Violation("feed gap", f"the feed said {feed.gaps} times that history is gone")
    topics = frozenset(topics_read_by("notifier"))
    for entry in book.facts.log:
        if entry.event is None or entry.topic not in topics:
            continue
        place = _partition(entry)
        if not feed.start.get(place, 0) <= entry.offset < feed.end.get(place, 0):
            continue
        if (entry.topic, str(entry.event.event_id)) not in feed.seen:
            yield Violation("feed gap", f"{name_of(entry)} never reached the feed's client")


def find_index_faults(book: Book) -> Iterator[Violation]:
    """The search index holds each registered case once, and nothing else."""
    if book.facts.indexed is None:
        return
    wanted = live_cases(book.facts.log)
    found = Counter(book.facts.indexed)
    for case_id in sorted(wanted - found.keys()):
        yield Violation("lost", f"case {case_id} is registered and not in the index")
    for case_id, count in found.items():
        if count > 1 or case_id not in wanted:
            yield Violation("double row", f"case {case_id} is {count} times in the index")


def live_cases(log: Iterable[Entry]) -> set[str]:
    """Return the cases that are registered and not withdrawn."""
    is_live: dict[str, bool] = {}
    for entry in log:
        if isinstance(entry.event, CaseRegistered):
            is_live[entry.event.case_id] = not entry.event.removed
    return {case_id for case_id, live in is_live.items() if live}


def summary(violations: Iterable[Violation]) -> dict[str, list[str]]:
    """Count violations by kind and keep a few examples of each, for people."""
    by_kind: dict[Kind, list[str]] = defaultdict(list)
    for kind, detail in violations:
        by_kind[kind].append(detail)
    return {kind: [f"{len(found)} times", *found[:_EXAMPLES]] for kind, found in by_kind.items()}
