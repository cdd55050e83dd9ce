"""Manual files to pages of text: Markdown, plain text, PDF."""

from __future__ import annotations

import codecs
import io
import re
import threading
from dataclasses import dataclass

from pipeline.errors import PoisonError

MAX_PAGES = 1000
MAX_CHARACTERS = 4_000_000

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_FIELD = re.compile(r"^([A-Za-z_]+)[ \t]*:[ \t]*(.+?)[ \t]*$", re.MULTILINE)
# A rule right below text would be an underlined heading, so a page break needs a blank line above.
_PAGE_RULE = re.compile(r"\f|(?:\A|(?<=\n\n))-{3,}[ \t]*(?:\n|\Z)")
# PDFium keeps global state and must not run in two threads at once.
_PDFIUM = threading.Lock()


@dataclass(frozen=True, slots=True)
class ManualText:
    """A manual as text. `pages` holds (page number from 1, text), empty pages left out.

    `title`, `revision` and `language` are what the file itself says, None where it does not.
    """

    pages: tuple[tuple[int, str], ...]
    is_markdown: bool
    title: str | None = None
    revision: str | None = None
    language: str | None = None


def read_manual(data: bytes, *, file_name: str, content_type: str) -> ManualText:
    """Return the text of a manual file.

    Raises:
        PoisonError: `manual_unreadable` (damaged, protected or too long), `manual_without_text`
            (a scan that needs text recognition first), `manual_type` (no .md, .txt or .pdf).
    """
    suffix = file_name.rsplit(".", 1)[-1].lower()
    if data.startswith(b"%PDF-") or suffix == "pdf" or content_type == "application/pdf":
        text = ManualText(_pdf_pages(data), is_markdown=False)
    elif suffix in ("md", "markdown", "txt", "text") or content_type.startswith("text/"):
        text = _plain_manual(_decode(data), is_markdown=suffix in ("md", "markdown"))
    else:
        raise PoisonError("manual_type", f"{file_name}: a manual is a .md, .txt or .pdf file")
    if not text.pages:
        raise PoisonError("manual_without_text", f"{file_name} holds no text; recognise it first")
    if sum(len(page) for _, page in text.pages) > MAX_CHARACTERS:
        raise PoisonError("manual_unreadable", f"{file_name} is too long; split it")
    return text


def _decode(data: bytes) -> str:
    """Decode UTF-8 or UTF-16, else the Korean code page that older Windows tools write."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16", "replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("cp949", "replace")
    if "\x00" in text:
        raise PoisonError("manual_unreadable", "the file holds binary data, not text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _plain_manual(text: str, *, is_markdown: bool) -> ManualText:
    fields: dict[str, str] = {}
    front = _FRONT_MATTER.match(text)
    if front:
        found = _FRONT_FIELD.findall(front.group(1))
        fields = {name.lower(): value.strip("\"'") for name, value in found}
        text = text[front.end() :]
    pages = tuple(
        (number, page)
        for number, page in enumerate(_PAGE_RULE.split(text.strip("\n")), start=1)
        if page.strip()
    )
    language = fields.get("language", fields.get("lang", "")).lower()[:2]
    return ManualText(
        pages,
        is_markdown,
        fields.get("title"),
        fields.get("revision", fields.get("version")),
        language if language in ("ko", "en") else None,
    )


def _pdf_pages(data: bytes) -> tuple[tuple[int, str], ...]:
    with _PDFIUM:
        pages = _read_with_pdfium(data)
    empty = [number for number, text in pages if not text.strip()]
    if empty:
        pages = _fill_with_pdfplumber(data, pages, empty)
    return tuple((number, text) for number, text in pages if text.strip())


def _read_with_pdfium(data: bytes) -> list[tuple[int, str]]:
    import pypdfium2  # noqa: PLC0415 - only a PDF needs the library, and it loads a binary

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise PoisonError("manual_unreadable", f"the PDF cannot be opened: {error}") from error
    try:
        if len(document) > MAX_PAGES:
            raise PoisonError("manual_unreadable", f"more than {MAX_PAGES} pages; split it")
        return [(index + 1, _page_text(document[index])) for index in range(len(document))]
    finally:
        document.close()


def _page_text(page: object) -> str:
    text_page = page.get_textpage()  # type: ignore[attr-defined] # pypdfium2 has no type hints
    text = str(text_page.get_text_bounded())
    text_page.close()
    page.close()  # type: ignore[attr-defined] # as above
    return text.replace("\r\n", "\n").replace("\ufffe", "").replace("\x00", "")


def _fill_with_pdfplumber(
    data: bytes, pages: list[tuple[int, str]], empty: list[int]
) -> list[tuple[int, str]]:
    """Read what PDFium found empty a second time: it gives up on some damaged fonts."""
    import pdfplumber  # noqa: PLC0415 - slow to import, seldom needed

    found = dict(pages)
    try:
        with pdfplumber.open(io.BytesIO(data)) as document:
            for number in empty[:50]:
                found[number] = document.pages[number - 1].extract_text() or ""
    except Exception:  # noqa: BLE001 - pdfminer raises anything; what PDFium read still counts
        return pages
    return sorted(found.items())
