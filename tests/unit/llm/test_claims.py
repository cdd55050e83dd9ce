from __future__ import annotations

import pytest

from consumers.llm.claims import Source, check_claim, codes, quantities
from consumers.llm.tokens import PlainTokenizer
from tests.llm_samples import KIWI

SENTENCES = (
    "롤러 표면의 이물을 알코올 5 ml로 닦는다.",
    "보호막을 벗기지 않는다.",
    "가이드 간격은 0.2~0.5 mm이다.",
    "경보 E-042가 뜨면 M6 볼트를 8 N·m로 조인다.",
)
SOURCE = Source("1", " ".join(SENTENCES), SENTENCES)


@pytest.mark.parametrize(
    ("sentence", "fault"),
    [
        ("롤러의 이물을 알코올 5 ml로 닦으십시오.", None),
        ("롤러의 이물을 알코올 50 ml로 닦으십시오.", "number"),
        ("롤러의 이물을 알코올 5 mm로 닦으십시오.", "number"),
        ("롤러의 이물을 알코올 5로 닦으십시오.", "number"),
        ("롤러 표면의 이물을 알코올로 두 번 닦는다.", "code"),
        ("보호막을 벗긴다.", "negation"),
        ("가이드 간격은 0.2 mm 이상이다.", None),
        ("가이드 간격은 0.5 cm 이하이다.", "number"),
        ("경보 E-042가 뜨면 볼트를 8 Nm로 조인다.", None),
        ("경보 E-043이 뜨면 M6 볼트를 조인다.", "code"),
        ("경보가 뜨면 M8 볼트를 조인다.", "code"),
        ("컨베이어 벨트의 장력을 줄인다.", "off_topic"),
        ("약0.7 mm 간격의 가이드이다.", "number"),
    ],
)
def test_a_korean_sentence_needs_what_its_source_says(sentence: str, fault: str | None) -> None:
    assert check_claim(sentence, [SOURCE], KIWI).fault == fault


def test_a_sentence_without_a_source_is_dropped() -> None:
    assert check_claim(SENTENCES[0], [], KIWI).fault == "no_source"


def test_a_citation_that_is_not_there_drops_the_sentence() -> None:
    assert check_claim(SENTENCES[0], [SOURCE, None], KIWI).fault == "unknown_source"


def test_the_quote_is_the_closest_sentence_verbatim() -> None:
    checked = check_claim("롤러의 이물을 알코올로 닦는다.", [SOURCE], KIWI)
    assert checked.quotes == (("1", SENTENCES[0]),)


def test_one_word_of_the_model_does_not_sink_a_supported_sentence() -> None:
    assert (
        check_claim("롤러 표면의 이물을 알코올 5 ml로 닦는다 qzwxk.", [SOURCE], KIWI).fault is None
    )


def test_a_translation_is_held_to_the_numbers_alone() -> None:
    plain = PlainTokenizer()
    assert check_claim("Wipe the roller with 5 ml of alcohol.", [SOURCE], plain).fault is None
    assert check_claim("Wipe the roller with 6 ml of alcohol.", [SOURCE], plain).fault == "number"


def test_english_negation_must_survive() -> None:
    sentences = ("Do not touch the roller while the belt is moving.",)
    source = Source("1", sentences[0], sentences)
    plain = PlainTokenizer()
    assert check_claim("Touch the roller while the belt is moving.", [source], plain).fault == (
        "negation"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.05mm~0.1 mm", {("0.05", "mm"), ("0.1", "mm")}),
        ("10 - 15 ㎜로", {("10", "mm"), ("15", "mm")}),
        ("80℃에서 5분", {("80", "°c"), ("5", "min")}),
        ("1,000 rpm", {("1000", "rpm")}),
        ("120x80px", {("120", "px"), ("80", "px")}),
        ("단계 3", {("3", None)}),
        ("E-042", set()),
    ],
)
def test_numbers_are_read_with_their_units(
    text: str, expected: set[tuple[str, str | None]]
) -> None:
    assert {(f"{number:f}", unit) for number, unit in quantities(text)} == expected


def test_codes_are_read_without_regard_to_case() -> None:
    assert codes("경보 e-042, M6") == {"E-042", "M6"}
