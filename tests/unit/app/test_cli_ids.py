"""What people type for products and ids: sent as it is, or refused with what is meant."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
import pytest
from click.testing import CliRunner

from app.cli import bank, cases, dead_letters, manuals
from app.client import Client

STRANGE = "a/b?c#d%e"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (bank.bank, ["list"]),
        (bank.bank, ["rollback"]),
        (bank.bank, ["build"]),
        (bank.bank, ["calibrate", "--threshold", "1"]),
        (cases.cases, ["list"]),
        (manuals.manuals, ["list"]),
    ],
)
def test_a_product_code_never_becomes_another_path(
    command: object, words: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path.decode())
        return httpx.Response(422, json={"slug": "bad_product_code", "detail": "no such code"})

    make = Client.__init__

    def on_a_line(self: Client, url: str | None = None, token: str | None = None) -> None:
        make(self, "http://line", token)
        self._http = httpx.Client(base_url=self.url, transport=httpx.MockTransport(answer))

    monkeypatch.setattr(Client, "__init__", on_a_line)
    CliRunner().invoke(command, [words[0], STRANGE, *words[1:]])  # type: ignore[arg-type]
    assert len(asked) == 1
    assert asked[0].startswith("/v1/products/a%2Fb%3Fc%23d%25e")


@pytest.mark.parametrize("words", [["show", "abc"], ["replay", "abc"], ["replay", "a/b", "--yes"]])
def test_what_is_no_letters_id_is_answered_with_how_to_find_one(words: Sequence[str]) -> None:
    result = CliRunner().invoke(dead_letters.dead_letters, list(words))
    said = " ".join(result.output.split())
    assert result.exit_code == 2
    assert f"{words[1]!r} is no id of a dead letter; one looks like 1b4e28ba-" in said
    assert "lineside dead-letters list" in said


def test_what_is_no_replays_id_is_answered_with_where_it_stands() -> None:
    result = CliRunner().invoke(dead_letters.dead_letters, ["replay", "--resume", "abc"])
    assert result.exit_code == 2
    assert "lineside dead-letters show" in " ".join(result.output.split())
