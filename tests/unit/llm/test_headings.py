"""The number of a heading hides none of its words, wherever headings are looked at."""

from __future__ import annotations

import pytest

from consumers.llm.asking import answer
from consumers.llm.lexicon import SECTION_WORDS
from consumers.llm.retrieval import ManualIndex
from consumers.llm.tokens import PlainTokenizer, Tokenizer, heading_terms, latin_terms
from tests.llm_samples import KIWI, chunks_of

MANUAL = """# 스크래치

## {number}현상
표면에 가는 선이 보인다.

## {number}원인
이송 벨트에 낀 칩이 긁는다.

## {number}특징
빛을 비추면 선이 보인다.
"""
KOREAN_WORDS = [word for row in SECTION_WORDS.values() for word in row if not word.isascii()]


@pytest.mark.parametrize("number", ["2.3 ", "2.3.1 ", "3. ", "3) ", "3 ", "2.3"])
@pytest.mark.parametrize("tokenizer", [KIWI, PlainTokenizer()], ids=lambda one: str(one.name))
def test_a_numbered_heading_has_the_terms_of_its_words_and_its_number(
    number: str, tokenizer: Tokenizer
) -> None:
    for word in (*KOREAN_WORDS, "개요", "회전", "cause", "E-042 알람"):
        wanted = [*latin_terms(number), *tokenizer.terms(word)]
        assert heading_terms(tokenizer, f"{number}{word}") == wanted, word


@pytest.mark.parametrize("title", ["원인", "E-042 알람", "2026", "M6 볼트", "25", ""])
def test_a_heading_without_a_number_before_it_is_taken_as_it_is(title: str) -> None:
    assert heading_terms(KIWI, title) == KIWI.terms(title)


@pytest.mark.parametrize("number", ["2.3 ", "3 ", ""])
@pytest.mark.parametrize(("question", "heading"), [("원인", "원인"), ("특징", "특징")])
def test_the_passage_index_of_reports_finds_a_section_by_its_numbered_heading(
    number: str, question: str, heading: str
) -> None:
    index = ManualIndex(chunks_of(MANUAL.format(number=number)), KIWI)
    (best, *_) = index.search(question, limit=3)
    assert best.chunk.section[-1] == f"{number}{heading}"
    (passage, *_) = answer(index, KIWI, f"스크래치의 {question}?")
    assert passage.chunk == best.chunk
