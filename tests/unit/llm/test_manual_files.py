from __future__ import annotations

import io

import pytest

from consumers.llm.manual_files import read_manual
from consumers.llm.manual_sections import split_sentences
from consumers.llm.manuals import CHUNK_LIMIT, chunk_manual
from pipeline.errors import PoisonError
from tests.llm_samples import KOREAN, chunks_of, manual_event


def pdf_of(*pages: str) -> bytes:
    """A PDF by hand: one line of Helvetica per line of text."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    kids = []
    for page in pages:
        rows = [f"({line}) Tj 0 -16 Td" for line in page.split("\n")]
        stream = ("BT /F1 12 Tf 72 720 Td " + " ".join(rows) + " ET").encode("latin-1")
        content = len(objects) + 1
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        kids.append(f"{len(objects) + 1} 0 R")
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 %s >> >> >>" % (content, font)
        )
    objects[1] = f"<< /Type /Pages /Count {len(kids)} /Kids [{' '.join(kids)}] >>".encode()
    out = io.BytesIO(b"%PDF-1.4\n")
    out.seek(0, io.SEEK_END)
    places = []
    for number, body in enumerate(objects, start=1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    for place in places:
        out.write(b"%010d 00000 n \n" % place)
    out.write(b"trailer << /Size %d /Root 1 0 R >>\n" % (len(objects) + 1))
    out.write(b"startxref\n%d\n%%%%EOF\n" % start)
    return out.getvalue()


def read(data: bytes, name: str) -> object:
    return read_manual(data, file_name=name, content_type="application/octet-stream")


def test_front_matter_names_title_revision_and_language() -> None:
    text = read_manual(KOREAN.encode(), file_name="a.md", content_type="text/markdown")
    assert (text.title, text.revision, text.language) == (
        "커넥터 하우징 불량 대응 매뉴얼",
        "R7",
        "ko",
    )
    assert [number for number, _ in text.pages] == [1, 2, 3]


def test_a_rule_below_text_is_an_underlined_heading_and_no_page_break() -> None:
    text = read_manual(b"Title\n---\nbody\n\n---\n\nsecond", file_name="a.md", content_type="")
    assert len(text.pages) == 2


def test_form_feeds_end_pages_and_blank_pages_keep_their_number() -> None:
    text = read_manual(b"one\x0c\x0cthree", file_name="a.txt", content_type="")
    assert text.pages == ((1, "one"), (3, "three"))


def test_text_of_older_windows_tools_is_read() -> None:
    text = read_manual("즉시 조치".encode("cp949"), file_name="a.txt", content_type="")
    assert text.pages == ((1, "즉시 조치"),)


def test_utf16_text_is_read() -> None:
    text = read_manual("즉시 조치".encode("utf-16"), file_name="a.txt", content_type="")
    assert text.pages == ((1, "즉시 조치"),)


def test_a_pdf_is_read_page_by_page() -> None:
    data = pdf_of("2.1 Immediate action\nStop the belt.", "2.2 Causes\nA chip in the guide.")
    text = read_manual(data, file_name="m.pdf", content_type="application/pdf")
    chunks = chunk_manual(manual_event(data, file_name="m.pdf"), text)
    assert [(chunk.page, chunk.section, chunk.sentences) for chunk in chunks] == [
        (1, ("2.1 Immediate action",), ("Stop the belt.",)),
        (2, ("2.2 Causes",), ("A chip in the guide.",)),
    ]


@pytest.mark.parametrize(
    ("data", "name", "reason"),
    [
        (b"%PDF-1.4 nonsense", "m.pdf", "manual_unreadable"),
        (b"", "m.txt", "manual_without_text"),
        (pdf_of(""), "scan.pdf", "manual_without_text"),
        (b"\x89PNG", "m.png", "manual_type"),
        (b"a\x00b", "m.txt", "manual_unreadable"),
    ],
)
def test_what_cannot_be_read_says_why(data: bytes, name: str, reason: str) -> None:
    with pytest.raises(PoisonError) as caught:
        read(data, name)
    assert caught.value.reason == reason


def test_chunks_know_their_page_and_section_path() -> None:
    chunk = next(chunk for chunk in chunks_of(KOREAN) if "0.5 mm" in chunk.text)
    assert chunk.page == 2
    assert chunk.section == ("커넥터 하우징 불량 대응 매뉴얼", "2. 스크래치", "2.4 조치")
    assert (chunk.document, chunk.revision, chunk.language) == (
        "커넥터 하우징 불량 대응 매뉴얼",
        "R7",
        "ko",
    )


def test_chunk_ids_are_stable_and_unique() -> None:
    twice = KOREAN + "\n\n### 3.3 조치\n- 건조한다.\n\n### 3.3 조치\n- 건조한다.\n"
    first, second = chunks_of(twice), chunks_of(twice)
    ids = [chunk.chunk_id for chunk in first]
    assert ids == [chunk.chunk_id for chunk in second]
    assert len(set(ids)) == len(ids)


def test_long_sections_are_cut_between_sentences() -> None:
    sentence = "가이드 간격을 게이지로 재고 기록지에 적은 다음 반장에게 보인다. "
    chunks = chunks_of("# 절\n\n" + sentence * 40)
    assert len(chunks) > 1
    assert all(len(chunk.text) <= CHUNK_LIMIT for chunk in chunks)
    assert "".join(chunk.text for chunk in chunks).count("반장에게 보인다.") == 40


def test_a_table_cell_stands_below_its_row_and_its_column() -> None:
    table = "# 표\n\n| 불량 | 원인 | 조치 |\n|---|---|---|\n| 찍힘 | 낙하 | 완충재를 깐다 |\n"
    found = {chunk.section: chunk.text for chunk in chunks_of(table)}
    assert found == {("표", "찍힘", "원인"): "낙하", ("표", "찍힘", "조치"): "완충재를 깐다"}


def test_sentences_are_split_without_breaking_numbers_and_abbreviations() -> None:
    text = "See Fig. 3 first. Use 5.5 mm. 정지한다. 확인한다"
    assert split_sentences(text) == ["See Fig. 3 first.", "Use 5.5 mm.", "정지한다.", "확인한다"]


def test_numbered_headings_of_plain_text_are_told_from_steps() -> None:
    text = (
        "1. 범위\n본문이다.\n2.1 즉시 조치\n1. 라인을 정지하고 부품을 상자에 담아 반장에게 알린다\n"
    )
    event = manual_event(text, file_name="m.txt")
    read_text = read_manual(text.encode(), file_name="m.txt", content_type="text/plain")
    sections = [chunk.section for chunk in chunk_manual(event, read_text)]
    assert sections == [("1. 범위",), ("1. 범위", "2.1 즉시 조치")]
