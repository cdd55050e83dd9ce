from __future__ import annotations

import pytest

from consumers.llm.evidence import gather_evidence
from consumers.llm.extract import extract_report
from consumers.llm.finding import describe, names_of_type, voted_type
from consumers.llm.prompt import MAX_EXCERPT_CHARACTERS, build_prompt
from consumers.llm.report import assemble
from consumers.llm.retrieval import ManualIndex
from consumers.llm.tokens import PlainTokenizer, Tokenizer
from schemas.reports import Report
from tests.llm_samples import ENGLISH, KIWI, KOREAN, chunks_of, embedded, finding

PLAIN = PlainTokenizer()


def report_on(voted: str | None, *, language: str = "ko", tokenizer: Tokenizer = PLAIN) -> Report:
    index = ManualIndex(chunks_of(KOREAN, ENGLISH), tokenizer)
    subject = finding(voted, language=language)
    evidence = gather_evidence(index, subject)
    assert evidence.refusal is None
    return assemble(subject, evidence, extract_report(subject, evidence), degraded=None)


@pytest.mark.parametrize("tokenizer", [KIWI, PLAIN], ids=["kiwi", "plain"])
def test_the_voted_type_finds_its_section_across_languages(tokenizer: Tokenizer) -> None:
    report = report_on("scratch", tokenizer=tokenizer)
    assert report.immediate_action[0].text.startswith("이송 벨트를 정지하고")
    assert [cause.cause for cause in report.probable_causes] == [
        "이송 벨트 가이드에 낀 금속 칩이 표면을 긁는다.",
        "가이드 간격이 0.2 mm보다 좁다.",
    ]
    assert report.severity == "low"


def test_another_types_section_is_never_quoted() -> None:
    text = report_on("scratch").model_dump_json()
    assert "사출기" not in text
    assert "230" not in text


@pytest.mark.parametrize("voted", [None, "porosity"])
def test_without_a_known_type_only_what_holds_for_any_defect_is_said(voted: str | None) -> None:
    report = report_on(voted)
    texts = [claim.text for claim in report.immediate_action]
    assert texts == [
        "해당 부품을 빨간 상자에 격리하고 라인 반장에게 알린다.",
        "직전 30개를 다시 검사한다.",
    ]
    assert report.probable_causes == ()
    assert report.severity == "unknown"


def test_a_split_vote_names_no_type() -> None:
    assert voted_type(embedded("scratch", confidence=0.3)) is None
    assert voted_type(None) is None


def test_the_report_is_in_the_products_language() -> None:
    report = report_on("scratch", language="en")
    assert report.language == "en"
    assert report.immediate_action[0].text == (
        "Stop the transfer belt and set the scratched part aside."
    )


def test_every_sentence_cites_a_quote_that_stands_in_the_manual() -> None:
    report = report_on("scratch")
    quotes = {citation.id: citation for citation in report.citations}
    groups = (report.immediate_action, report.checks, report.corrective_action, report.prevention)
    for claim in (claim for group in groups for claim in group):
        (number,) = claim.citations
        assert quotes[number].quote == claim.text
        assert claim.text in KOREAN
        assert quotes[number].page
        assert quotes[number].revision == "R7"


def test_warnings_are_safety_notes_verbatim() -> None:
    report = report_on("scratch")
    assert [note.text for note in report.safety_notes] == [
        "경고: 벨트 전원을 차단하고 잠금 표지를 건 뒤에 손을 넣는다."
    ]


def test_where_the_region_lies_is_said_as_measured() -> None:
    report = report_on(None)
    assert report.symptom[0].text == "위쪽 왼쪽에 120 x 80 px 크기의 이상 영역이 있다."
    assert report.symptom[0].citations == ("0",)


def test_equal_input_gives_an_equal_report() -> None:
    assert report_on("scratch") == report_on("scratch")


def test_no_manual_is_a_refusal_that_says_so() -> None:
    evidence = gather_evidence(ManualIndex((), PLAIN), finding("scratch"))
    assert evidence.refusal == "no_manual"


def test_a_manual_of_other_types_alone_is_refused_for_this_one() -> None:
    only = "# 미성형\n\n## 즉시 조치\n사출기를 정지한다.\n\n## 원인\n수지 온도가 낮다.\n"
    evidence = gather_evidence(ManualIndex(chunks_of(only), PLAIN), finding("scratch"))
    assert evidence.refusal == "only_other_types"


def test_a_text_about_something_else_is_refused() -> None:
    text = "# 구내식당 안내\n\n점심은 정오에 시작한다. 식판을 닦아 반납한다.\n"
    evidence = gather_evidence(ManualIndex(chunks_of(text), PLAIN), finding(None))
    assert evidence.refusal == "no_match"


def test_names_of_a_type_come_from_the_product_and_the_lexicon() -> None:
    rows = ({"code": "d7", "name_ko": "긁힘", "name_en": "scoring"},)
    names = names_of_type("d7", rows)
    assert {"d7", "긁힘", "scoring", "scratch", "스크래치"} <= set(names)


def test_the_prompt_numbers_its_excerpts_and_stays_within_its_budget() -> None:
    long = "\n\n".join(
        f"## {n}. 공통 조치\n" + "라인을 정지하고 부품을 격리한다. " * 20 for n in range(30)
    )
    subject = finding("scratch")
    for text in (KOREAN, long):
        index = ManualIndex(chunks_of(text), PLAIN)
        prompt = build_prompt(subject, gather_evidence(index, subject))
        assert prompt.chunks
        assert sum(len(chunk.text) for chunk in prompt.chunks) <= MAX_EXCERPT_CHARACTERS
        for number, chunk in enumerate(prompt.chunks, start=1):
            assert f"[발췌 {number}] {chunk.document}" in prompt.user
            assert chunk.sentences[0] in prompt.user
        assert all(fact in prompt.user for fact in describe(subject))


def test_codes_stay_whole_in_the_index() -> None:
    for tokenizer in (KIWI, PLAIN):
        assert "e-042" in tokenizer.terms("경보 E-042 발생")


def test_bm25_prefers_the_chunk_that_holds_the_rare_word() -> None:
    index = ManualIndex(chunks_of(KOREAN), KIWI)
    assert "230" in index.search("수지 온도", limit=1)[0].chunk.text
    assert index.search("존재하지않는낱말", limit=5) == []
