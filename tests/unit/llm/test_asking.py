from __future__ import annotations

import pytest

from consumers.llm.asking import answer
from consumers.llm.retrieval import ManualIndex
from tests.llm_samples import KIWI, KOREAN, chunks_of


@pytest.fixture(scope="module")
def index() -> ManualIndex:
    return ManualIndex(chunks_of(KOREAN), KIWI)


def test_a_question_is_answered_with_the_manuals_own_sentences(index: ManualIndex) -> None:
    passages = answer(index, KIWI, "스크래치의 원인이 무엇입니까?")
    best = passages[0]
    assert "이송 벨트 가이드에 낀 금속 칩이 표면을 긁는다." in best.sentences
    assert best.chunk.section[-1].endswith("원인")
    for passage in passages:
        assert set(passage.sentences) <= set(passage.chunk.sentences)


def test_the_sentence_that_is_asked_for_comes_along(index: ManualIndex) -> None:
    (best, *_) = answer(index, KIWI, "조명 밝기는 몇 lx 이상이어야 합니까?")
    assert "조명 밝기가 800 lx 이상인지 확인한다." in best.sentences


@pytest.mark.parametrize("question", ["휴가 신청은 어디에 합니까?", "Where is the canteen?", ""])
def test_what_the_manuals_do_not_treat_is_not_answered(index: ManualIndex, question: str) -> None:
    assert answer(index, KIWI, question) == []
