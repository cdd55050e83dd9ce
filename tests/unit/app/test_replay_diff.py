from __future__ import annotations

from typing import Any

from app.replay.answers import Answer, Collector, label_of, live_answer
from app.replay.diff import agreement, compare
from schemas.anomalies import ImageScored
from schemas.embeddings import ImageEmbedded, Neighbour
from schemas.event import Event
from schemas.reports import ImageExplained
from tests.story import Story


def _answers(*rows: tuple[str, str, float | None]) -> dict[str, Answer]:
    return {
        image: Answer(image, "cap", f"part-{image}", label, 2.0, 1.0, strength)
        for image, label, strength in rows
    }


def collected(*events: Event) -> dict[str, Answer]:
    found = Collector()
    for event in events:
        found.add(event)
    return found.answers()


def test_changes_are_counted_by_kind_and_the_largest_shift_comes_first() -> None:
    a = _answers(("1", "OK", 0.5), ("2", "OK", 0.9), ("3", "NG", 2.0), ("4", "OK", 0.4))
    b = _answers(("1", "NG", 1.5), ("2", "NG", 1.2), ("3", "OK", 0.1), ("4", "OK", 0.6))
    result = compare(a, b, limit=10)
    assert (result["compared"], result["changed"]) == (4, 3)
    assert result["by_kind"] == {"OK → NG": 2, "NG → OK": 1}
    assert [one["image_id"] for one in result["images"]] == ["3", "1", "2"]
    assert result["images"][0]["shift"] == -1.9
    assert result["labels"] == {"a": {"NG": 1, "OK": 3}, "b": {"NG": 2, "OK": 2}}
    assert result["scores"]["shift"]["max"] == 1.0
    assert result["scores"]["a"]["mean"] == 0.95


def test_an_image_that_lost_its_score_is_worst() -> None:
    a = _answers(("1", "OK", 0.5), ("2", "OK", 0.9))
    b = _answers(("1", "NG", 9.0), ("2", "ERROR", None))
    result = compare(a, b, limit=1)
    assert [one["image_id"] for one in result["images"]] == ["2"]
    assert result["changed"] == 2


def test_what_only_one_has_is_no_change() -> None:
    result = compare(_answers(("1", "OK", 0.5)), _answers(("2", "NG", 2.0)), limit=10)
    assert (result["compared"], result["changed"]) == (0, 0)
    assert (result["only_in_a"], result["only_in_b"]) == (1, 1)
    assert result["missing"] == {"only_in_a": ["1"], "only_in_b": ["2"]}
    assert result["scores"] == {"a": None, "b": None, "shift": None}


def test_a_version_compared_with_itself_has_no_change() -> None:
    answers = _answers(("1", "OK", 0.5), ("2", "NG", None))
    assert compare(answers, answers, limit=10)["changed"] == 0


def test_verdicts_are_held_against_what_people_decided() -> None:
    answers = _answers(("1", "OK", 0.5), ("2", "NG", 2.0), ("3", "REVIEW", 1.0), ("4", "NG", 2.0))
    decisions = {"1": "ok", "2": "ok", "3": "ng", "9": "ng"}
    assert agreement(answers, decisions) == {
        "reviewed": 3, "agree": 1, "disagree": 1, "open": 1,
    }  # fmt: skip


def test_of_an_event_id_the_first_counts_and_of_an_image_the_newest_origin() -> None:
    story = Story()
    first = story.scored("OK")
    asked = story.scored("NG", story.requested(60))
    again = first.model_copy(update={"verdict": "REVIEW"})
    for events in ([first, asked, again], [asked, first, again]):
        (answer,) = collected(*events).values()
        assert answer.label == "NG"
    (answer,) = collected(first, again).values()
    assert (answer.label, answer.strength) == ("OK", 2.0)


def _neighbour(case_id: str, similarity: float) -> Neighbour:
    return Neighbour(case_id=case_id, image_key="k", product="cap", similarity=similarity)


def test_another_nearest_case_is_a_change_though_the_vote_is_the_same() -> None:
    event = Story().embedded()

    def nearest(*cases: str) -> dict[str, Answer]:
        found = tuple(_neighbour(case, 0.9) for case in cases)
        changed: ImageEmbedded = event.model_copy(
            update={"neighbours": found, "voted_defect_type": "scratch"}
        )
        return collected(changed)

    result = compare(nearest("c1", "c2"), nearest("c2", "c1"), limit=5)
    assert result["by_kind"] == {"scratch, other nearest case": 1}
    assert compare(nearest("c1", "c2"), nearest("c1"), limit=5)["changed"] == 0


def test_an_answer_is_the_verdict_the_vote_or_what_became_of_the_report() -> None:
    story = Story()
    report: ImageExplained = story.explained(story.scored("NG"))
    assert label_of(story.scored("REVIEW")) == "REVIEW"
    assert label_of(story.embedded()) == "no vote"
    assert label_of(report) == "unknown"
    assert label_of(report.model_copy(update={"refused": True})) == "refused"
    assert label_of(story.skipped("llm")) == "SKIPPED"
    assert label_of(story.buried("embed")) == "DEAD_LETTER"


def test_what_is_live_is_what_the_tables_show() -> None:
    story = Story()
    scored: ImageScored = story.scored("NG")

    def live(**fields: Any) -> str | None:
        view = {
            "image_id": story.image_id,
            "subject": story.subject.model_dump(mode="json"),
            "scored": None,
            "dead_letters": [],
            "skipped": [],
            **fields,
        }
        answer = live_answer(view, "anomaly")
        return answer.label if answer else None

    assert live() is None
    assert live(scored=scored.model_dump(mode="json")) == "NG"
    assert live(dead_letters=[{"stage": "embed"}]) is None
    assert live(dead_letters=[{"stage": "anomaly"}]) == "DEAD_LETTER"
    assert live(skipped=[{"stage": "anomaly"}]) == "SKIPPED"
