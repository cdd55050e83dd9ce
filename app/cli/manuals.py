"""`lineside manuals import|list|search|ask`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from app.cli.output import table
from app.client import Client, product_path
from consumers.llm.asking import Passage, answer
from consumers.llm.manual_files import read_manual
from consumers.llm.manuals import Chunk, chunk_manual
from consumers.llm.retrieval import ManualIndex
from consumers.llm.tokens import choose_tokenizer
from schemas.configuration import ManualPublished

_URL = click.option("--url", help="Where Lineside listens; the local one by default.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("manuals")
def manuals() -> None:
    """Manuals, which reports are written from."""


@manuals.command("import")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--product", required=True)
@click.option("--title", help="Shown in citations; the file's own by default.")
@click.option("--language", type=click.Choice(["ko", "en"]))
@click.option("--revision")
@_URL
@_JSON
def import_manuals(
    *,
    files: tuple[Path, ...],
    product: str,
    title: str | None,
    language: str | None,
    revision: str | None,
    url: str | None,
    as_json: bool,
) -> int:
    """Add .md, .txt or .pdf manuals; the same file name is the next version of a manual."""
    fields = {"title": title, "language": language, "revision": revision}
    with Client(url) as client:
        results = client.send_files(
            product_path(product, "manuals"),
            files,
            fields={name: value for name, value in fields.items() if value},
        )
    if as_json:
        click.echo(json.dumps({"files": results}, ensure_ascii=False))
    else:
        for item in results:
            click.echo(f"{item['result']:9} {item['name']}  {item.get('detail') or ''}")
    return 1 if any(item["result"] == "refused" for item in results) else 0


@manuals.command("list")
@click.argument("product")
@_URL
@_JSON
def list_manuals(*, product: str, url: str | None, as_json: bool) -> None:
    """List the manuals of a product."""
    with Client(url) as client:
        found = list(client.pages(product_path(product, "manuals"), "manuals"))
    if as_json:
        click.echo(json.dumps({"manuals": found}, ensure_ascii=False))
        return
    rows = [
        [m["manual_id"], m["title"], m["revision"], m["language"], m["file_name"]] for m in found
    ]
    table(["manual", "title", "revision", "language", "file"], rows)


@manuals.command("search")
@click.argument("query")
@click.option("--product", required=True)
@click.option("-k", default=5, show_default=True, type=click.IntRange(1, 50))
@_URL
@_JSON
def search(*, query: str, product: str, k: int, url: str | None, as_json: bool) -> None:
    """Find the passages that a report on QUERY would be written from."""
    with Client(url) as client:
        chunks = [chunk for manual in _manuals_of(client, product) for chunk in manual]
    hits = ManualIndex(chunks, choose_tokenizer()).search(query, limit=k)
    if as_json:
        found = [
            {
                "score": round(hit.score, 3),
                "document": hit.chunk.document,
                "page": hit.chunk.page,
                "section": " > ".join(hit.chunk.section),
                "text": hit.chunk.text,
            }
            for hit in hits
        ]
        click.echo(json.dumps({"results": found}, ensure_ascii=False))
        return
    for hit in hits:
        click.echo(
            f"{hit.score:6.2f}  {hit.chunk.document} p. {hit.chunk.page}  "
            f"{' > '.join(hit.chunk.section)}\n        {hit.chunk.text}\n"
        )


@manuals.command("ask")
@click.argument("question")
@click.option("--product", required=True)
@_URL
@_JSON
def ask(*, question: str, product: str, url: str | None, as_json: bool) -> int:
    """Answer QUESTION in the manuals' own words, with where they stand; 1 if they say nothing."""
    with Client(url) as client:
        chunks = [chunk for manual in _manuals_of(client, product) for chunk in manual]
    tokenizer = choose_tokenizer()
    passages = answer(ManualIndex(chunks, tokenizer), tokenizer, question)
    if as_json:
        told = [_passage_json(passage) for passage in passages]
        click.echo(json.dumps({"kind": "extractive", "answer": told}, ensure_ascii=False))
    elif passages:
        for number, passage in enumerate(passages, start=1):
            for sentence in passage.sentences:
                click.echo(f"- {sentence} [{number}]")
        click.echo("\nexcerpts of the manuals, word for word:")
        for number, passage in enumerate(passages, start=1):
            click.echo(f"[{number}] {_place(passage.chunk)}")
    else:
        missing = "has no manual yet" if not chunks else "has no manual that speaks of this"
        hint = f"add one: lineside manuals import FILE --product {product}"
        click.echo(f"{product} {missing}; {hint}", err=True)
    return 0 if passages else 1


def _place(chunk: Chunk) -> str:
    revision = f", revision {chunk.revision}" if chunk.revision else ""
    return f"{chunk.document}{revision}, p. {chunk.page}, {chunk.path}"


def _passage_json(passage: Passage) -> dict[str, Any]:
    chunk = passage.chunk
    return {
        "sentences": list(passage.sentences),
        "document": chunk.document,
        "revision": chunk.revision,
        "page": chunk.page,
        "section": chunk.path,
        "manual_id": chunk.manual_id,
    }


def _manuals_of(client: Client, product: str) -> list[tuple[Chunk, ...]]:
    cut = []
    for row in client.pages(product_path(product, "manuals"), "manuals"):
        manual = ManualPublished.model_validate(_event_fields(row))
        data = client.download(row["file_url"])
        text = read_manual(data, file_name=manual.file_name, content_type=manual.content_type)
        cut.append(chunk_manual(manual, text))
    return cut


def _event_fields(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "file_url"}


COMMANDS = {"manuals": manuals}
