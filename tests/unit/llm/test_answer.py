from __future__ import annotations

import pytest

from consumers.llm.answer import AnswerReader, Line


def read(text: str, *, size: int = 7) -> list[Line]:
    reader = AnswerReader()
    lines: list[Line] = []
    for start in range(0, len(text), size):
        lines += reader.feed(text[start : start + size])
    return lines + list(reader.close())


def test_a_sentence_is_out_as_soon_as_its_line_ends() -> None:
    reader = AnswerReader()
    assert list(reader.feed("causes | A chip. [2]")) == []
    assert list(reader.feed("\nchecks | ")) == [Line("causes", "A chip.", ("2",))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("immediate_action | 정지한다. [1]", ("immediate_action", "정지한다.", ("1",))),
        ("- **Causes** | A chip. [1][3]", ("causes", "A chip.", ("1", "3"))),
        ("즉시 조치 | 정지한다. [1, 2]", ("immediate_action", "정지한다.", ("1", "2"))),
        ("## 재발 방지 대책\n- 매일 닦는다. [4]", ("prevention", "매일 닦는다.", ("4",))),
        ("원인:\n1. 칩이 끼었다 [발췌 2].", ("causes", "칩이 끼었다", ("2",))),
        ("Causes: a chip in the guide [Excerpt 2]", ("causes", "a chip in the guide", ("2",))),
        ("<think>\ncauses | wrong [1]\n</think>\nchecks | Look. [2]", ("checks", "Look.", ("2",))),
        ("```\nchecks | Look. [2]\n```", ("checks", "Look.", ("2",))),
    ],
)
def test_the_forms_that_models_use_are_understood(text: str, expected: tuple[object, ...]) -> None:
    assert read(text) == [Line(*expected)]  # type: ignore[arg-type] # parameters of a test


def test_each_sentence_keeps_the_citation_behind_it() -> None:
    assert read("checks | Look at A. [1] Look at B. [2] And more.") == [
        Line("checks", "Look at A.", ("1",)),
        Line("checks", "Look at B.", ("2",)),
        Line("checks", "And more.", ()),
    ]


def test_two_sentences_before_one_citation_share_it() -> None:
    assert read("checks | Look at the belt. Look at the guide. [1]") == [
        Line("checks", "Look at the belt.", ("1",)),
        Line("checks", "Look at the guide.", ("1",)),
    ]


def test_prose_without_a_section_is_dropped() -> None:
    assert read("Sure! Here is the report you asked for.\nHave a nice day. [1]") == []


def test_a_line_that_was_cut_short_has_no_citation() -> None:
    assert read("checks | Measure the gap of the gui") == [
        Line("checks", "Measure the gap of the gui", ())
    ]


def test_a_model_that_repeats_itself_for_ever_is_cut() -> None:
    assert read("checks | " + "again " * 2000 + "[1]\nchecks | Look. [2]", size=50)[-1:] == [
        Line("checks", "Look.", ("2",))
    ]
