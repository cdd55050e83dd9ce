"""One attempt to have the model write a report, sentence by sentence, each one checked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import cast

from consumers.llm.answer import AnswerReader, Line
from consumers.llm.claims import check_claim
from consumers.llm.evidence import ACTIONABLE
from consumers.llm.finding import Finding
from consumers.llm.lexicon import fold
from consumers.llm.prompt import Prompt
from consumers.llm.report import (
    FINDING_SOURCE,
    Draft,
    finding_citation,
    manual_citation,
)
from consumers.llm.tokens import Tokenizer
from pipeline.ports import TextModel
from schemas.reports import Citation

MAX_TOKENS = 900
_MAX_LINES = 40


@dataclass(slots=True)
class Written:
    """What the model wrote so far: `lines` passed the checks, `dropped` counts faults."""

    lines: list[Line] = field(default_factory=list)
    citations: dict[str, Citation] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def is_useful(self) -> bool:
        """Whether there is something to act on that a manual carries."""
        return any(line.section in ACTIONABLE for line in self.lines)


class Writer:
    """Asks the model, reads its lines and keeps those whose sources carry them."""

    def __init__(self, model: TextModel, tokenizer: Tokenizer) -> None:
        """Keep the model; nothing is asked yet."""
        self._model = model
        self._tokenizer = tokenizer

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model.name

    async def write(
        self, finding: Finding, prompt: Prompt, written: Written
    ) -> AsyncGenerator[Line | None, None]:
        """Yield every sentence that passed, once its line is complete; None is a sign of life.

        Closing the generator cancels the work on the server. Errors are those of
        `TextModel.stream`.
        """
        written.citations[FINDING_SOURCE] = finding_citation(finding)
        reader = AnswerReader()
        stream = self._model.stream(prompt.system, prompt.user, max_tokens=MAX_TOKENS)
        # Every TextModel is a generator; the port promises only what readers need.
        async with aclosing(cast("AsyncGenerator[str, None]", stream)) as pieces:
            async for piece in pieces:
                yield None
                for line in await self._passing(reader.feed(piece), prompt, written):
                    yield line
                if len(written.lines) >= _MAX_LINES:
                    return
        for line in await self._passing(reader.close(), prompt, written):
            yield line

    async def _passing(self, lines: Iterator[Line], prompt: Prompt, written: Written) -> list[Line]:
        candidates = list(lines)
        if not candidates:
            return []
        return await asyncio.to_thread(self._check, candidates, prompt, written)

    def _check(self, lines: Iterable[Line], prompt: Prompt, written: Written) -> list[Line]:
        passed = []
        for line in lines:
            fault = self._fault(line, prompt, written)
            if fault is None:
                written.lines.append(line)
                passed.append(line)
            else:
                written.dropped[fault] += 1
        return passed

    def _fault(self, line: Line, prompt: Prompt, written: Written) -> str | None:
        """Return why a line is dropped, None when it passed and its citations are noted."""
        if line.section == "safety":
            return "safety_is_verbatim"
        if any(fold(line.text) == fold(known.text) for known in written.lines):
            return "repeated"
        if FINDING_SOURCE in line.citations and line.section != "symptom":
            return "measured_only"
        cited = [prompt.sources.get(number) for number in line.citations]
        checked = check_claim(line.text, cited, self._tokenizer)
        if checked.fault is not None:
            return checked.fault
        for number, quote in checked.quotes:
            if number != FINDING_SOURCE and number not in written.citations:
                chunk = prompt.chunks[int(number) - 1]
                written.citations[number] = manual_citation(number, chunk, quote)
        return None


def complete(written: Written, extract: Draft, model: str) -> tuple[Draft, list[Line]]:
    """Return the model's draft with what only the manual may say, and the lines added.

    Safety notes always come from the manual itself, verbatim; so does the immediate action where
    the model gave none, and where the place lies comes from the inspection.
    """
    has_action = any(line.section == "immediate_action" for line in written.lines)
    citations = dict(written.citations)
    added: list[Line] = []
    for line in extract.lines:
        if line.citations == (FINDING_SOURCE,):
            added.append(line)
        elif line.section == "safety" or (line.section == "immediate_action" and not has_action):
            # Excerpts are numbered below 100; what is added must not take one of their numbers.
            number = str(100 + len(added))
            quoted = extract.citations[line.citations[0]]
            citations[number] = quoted.model_copy(update={"id": number})
            added.append(Line(line.section, line.text, (number,)))
    places = [line for line in added if line.section == "symptom"]
    others = [line for line in added if line.section != "symptom"]
    return Draft([*places, *written.lines, *others], citations, "model", model), added
