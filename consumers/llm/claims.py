"""Whether a sentence of the model may be shown: only what the cited passages carry.

The checks are deliberately blunt. A true sentence lost costs a line of the report; a wrong
torque shown costs a machine.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Literal

from consumers.llm.lexicon import is_negated, language_of
from consumers.llm.tokens import Tokenizer

Fault = Literal["no_source", "unknown_source", "number", "code", "off_topic", "negation"]

# Share of a sentence's words that its sources must hold; paraphrases of manuals keep about this.
MIN_SUPPORT = 0.5
# From here on a source sentence is what was paraphrased, so its "not" must have survived.
_SAME_SENTENCE = 0.6

_NUMBER = re.compile(r"(?<![A-Za-z0-9_])(\d+(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+)")
# Between two numbers that share the unit behind the second one; dashes are made plain before.
_RANGE_LINK = re.compile(r"\s*(?:~|-|to|에서|부터|±|\+/-|x|/)\s*")
_TIMES_SIGN = re.compile(r"(?<=\d)\s*[x\u00d7]\s*(?=\d)")
_NEWTON_METRE = re.compile(r"(?<=\d)\s*N[.·]?m(?![A-Za-z])")
_UNIT = re.compile(
    r"\s*(µm|μm|um|nm|mm2|mm|cm2|cm|km|m2|m3|m|inch(?:es)?|in|°c|°f|도|%|ppm|kpa|mpa|pa|bar|psi"
    r"|n·m|n\.m|nm|kgf|kg|mg|g|kn|n|rpm|khz|mhz|hz|kv|mv|v|ma|a|kw|w|ms|초|sec(?:onds?)?|s"
    r"|분|min(?:utes?)?|시간|hours?|h|일|days?|주|weeks?|개월|months?|년|years?|ml|l|개|장|회|번|ea|pcs"
    r"|times|px|db|lx|lm|배|mω|kω|ω|°)(?![a-z])",
    re.IGNORECASE,
)
_SAME_UNIT = MappingProxyType(
    {
        "μm": "um", "µm": "um", "도": "°c", "inches": "inch", "in": "inch", "초": "s", "sec": "s",
        "second": "s", "seconds": "s", "분": "min", "minute": "min", "minutes": "min",
        "시간": "h", "hour": "h", "hours": "h", "일": "day", "days": "day", "주": "week",
        "weeks": "week", "개월": "month", "months": "month", "년": "year", "years": "year",
        "n.m": "n·m", "개": "ea", "pcs": "ea", "장": "ea", "회": "times", "번": "times",
    }
)  # fmt: skip
_CODE = re.compile(r"(?<![\w])[A-Za-z]{1,8}[-_]?\d[\w-]*(?:\.\d+)?")
_NUMBER_WORDS = re.compile(
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|thirty|hundred|thousand|half"
    r"|twice|double|triple|dozen)\b"
    r"|(?:두|세|네|다섯|여섯|일곱|여덟|아홉|열|스무|절반|한두|두세)\s?(?:번|개|장|회|시간|배|바퀴|명|곳|차례)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Source:
    """What a sentence may cite: an excerpt's number, text and sentences."""

    number: str
    text: str
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """The outcome: `fault` None means shown; `quotes` holds, per source, the closest sentence."""

    fault: Fault | None
    quotes: tuple[tuple[str, str], ...] = ()


def check_claim(sentence: str, cited: Sequence[Source | None], tokenizer: Tokenizer) -> Checked:
    """Check one sentence against what it cites; None among `cited` is a source that is not there.

    In order: there is a source, and it exists; every number stands in a source with the same
    unit; every code stands in a source; enough of the words do; a "not" was neither lost nor
    added. The last two need sentence and source in one language.
    """
    if not cited:
        return Checked("no_source")
    sources = [source for source in cited if source is not None]
    if len(sources) != len(cited):
        return Checked("unknown_source")
    text = " ".join(source.text for source in sources)
    if not quantities(sentence) <= quantities(text):
        return Checked("number")
    if not (codes(sentence) <= codes(text) and _number_words(sentence) <= _number_words(text)):
        return Checked("code")
    return _check_words(sentence, sources, tokenizer)


def _check_words(sentence: str, sources: Sequence[Source], tokenizer: Tokenizer) -> Checked:
    terms = set(tokenizer.terms(sentence))
    language = language_of(sentence)
    supported = False
    quotes = []
    for source in sources:
        best, share = closest_sentence(terms, source, tokenizer)
        quotes.append((source.number, best))
        if language_of(source.text) != language:
            supported = True
            continue
        if share >= _SAME_SENTENCE and is_negated(best) != is_negated(sentence):
            return Checked("negation")
        held = terms & set(tokenizer.terms(source.text))
        supported = supported or len(held) >= MIN_SUPPORT * len(terms)
    return Checked(None if supported and terms else "off_topic", tuple(quotes))


def closest_sentence(terms: set[str], source: Source, tokenizer: Tokenizer) -> tuple[str, float]:
    """Return the sentence of a source that shares most with `terms`, and the share, 0 to 1."""
    best, best_share = source.sentences[0], -1.0
    for sentence in source.sentences:
        own = set(tokenizer.terms(sentence))
        share = 2 * len(terms & own) / ((len(terms) + len(own)) or 1)
        if share > best_share:
            best, best_share = sentence, share
    return best, best_share


Quantity = tuple[Decimal, str | None]


def quantities(text: str) -> frozenset[Quantity]:
    """Return every number with its unit, None for a bare one; in a range both have the unit."""
    return frozenset(_quantities(_plain(text)))


def _quantities(text: str) -> Iterator[Quantity]:
    pending: list[Decimal] = []
    matches = list(_NUMBER.finditer(_CODE.sub(lambda code: "#" * len(code.group()), text)))
    for index, match in enumerate(matches):
        pending.append(Decimal(match.group(1).replace(",", "")).normalize())
        following = matches[index + 1].start() if index + 1 < len(matches) else None
        if following and _RANGE_LINK.fullmatch(text[match.end() : following]):
            continue
        unit = _UNIT.match(text, match.end())
        name = unit.group(1).lower() if unit else None
        for number in pending:
            yield number, _SAME_UNIT.get(name, name) if name else None
        pending = []


def codes(text: str) -> frozenset[str]:
    """Return the codes of a text, such as E-042 or M6, in upper case."""
    return frozenset(code.upper() for code in _CODE.findall(unicodedata.normalize("NFKC", text)))


def _number_words(text: str) -> frozenset[str]:
    return frozenset(word.lower().replace(" ", "") for word in _NUMBER_WORDS.findall(text))


def _plain(text: str) -> str:
    """Make one form of each notation: full-width digits, unit signs, fractions, dashes, times."""
    plain = unicodedata.normalize("NFKC", text).translate(_PLAIN)
    return _NEWTON_METRE.sub(" n·m", _TIMES_SIGN.sub(" x ", plain))


_PLAIN = str.maketrans({"\u2044": "/", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u223c": "~"})
