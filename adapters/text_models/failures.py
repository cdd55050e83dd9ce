"""What the client of a language model raises, in the pipeline's words.

Seen with huggingface_hub 1.16 and a scripted server (app/chaos/scripted_llm.py): the chat route
raises `HfHubHTTPError` with a response, the generate route `OverloadedError` and its sisters
without one, an error event inside a stream `UnknownError` around the event's text, a server that
is away or dies a raw transport error, and broken JSON a ValueError.
"""

from __future__ import annotations

from typing import Literal

from huggingface_hub.errors import (
    HfHubHTTPError,
    OverloadedError,
    TextGenerationError,
    ValidationError,
)

from pipeline.errors import (
    ConfigError,
    DependencyDownError,
    LinesideError,
    PoisonError,
    TransientError,
)

Kind = Literal["away", "credentials", "absent", "refused", "broken"]

_AWAY_STATUS = frozenset({429, 502, 503, 504, 529})
_REFUSED_STATUS = frozenset({400, 413, 422})
# TGI puts every kind of error into a stream event of the same status: only its words differ.
_REFUSED_WORDS = ("validation", "template", "too long", "maximum context", "must have less than")


class BrokenAnswerError(Exception):
    """The stream ended before the server said that the answer was finished."""


def status_of(error: BaseException) -> int | None:
    """HTTP status of a refusal, None when the error carries no response."""
    if not isinstance(error, HfHubHTTPError) and "HTTPStatusError" not in _lineage(error):
        return None
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _lineage(error: BaseException) -> frozenset[str]:
    """Names of the error's classes: huggingface_hub 2 raises httpx2's, of the same names."""
    return frozenset(kind.__name__ for kind in type(error).__mro__)


def kind_of(error: Exception, *, received: bool) -> Kind:
    """Sort an error; `received` says whether anything of the answer had arrived."""
    status = status_of(error)
    if status is not None:
        return _kind_of_status(status)
    if isinstance(error, OverloadedError):
        return "away"
    if isinstance(error, ValidationError):
        return "refused"
    if isinstance(error, TextGenerationError):
        return _kind_of_words(str(error).lower())
    if isinstance(error, OSError) or "TransportError" in _lineage(error):
        return "broken" if received else "away"
    return "broken"


def _kind_of_status(status: int) -> Kind:
    if status in _AWAY_STATUS:
        return "away"
    if status in (401, 403):
        return "credentials"
    if status in (404, 405, 410):
        return "absent"
    return "refused" if status in _REFUSED_STATUS else "broken"


def _kind_of_words(text: str) -> Kind:
    if "overloaded" in text:
        return "away"
    return "refused" if any(word in text for word in _REFUSED_WORDS) else "broken"


def to_port_error(error: Exception, *, received: bool) -> LinesideError:
    """Return what `TextModel.stream` raises for an error of the client.

    Wrong credentials or a missing model are no fault of the event that happened to be first:
    they count as the dependency being away, and `check` names them.
    """
    if isinstance(error, LinesideError):
        return error
    kind = kind_of(error, received=received)
    detail = f"{type(error).__name__}: {error}".strip()[:500]
    if kind == "refused":
        return PoisonError("prompt_refused", f"the language model refuses this prompt; {detail}")
    if kind == "broken":
        return TransientError(f"the language model's answer broke off; {detail}")
    return DependencyDownError("llm", f"{_ADVICE[kind]}; {detail}")


_ADVICE: dict[Kind, str] = {
    "away": "the language model server is away or overloaded; start it or wait",
    "credentials": "the language model server refuses the credentials; set LINESIDE_LLM__API_KEY",
    "absent": "no such model or route; check LINESIDE_LLM__BASE_URL, __KIND and __MODEL",
}


def to_check_error(error: Exception) -> LinesideError:
    """Return what `TextModel.check` raises: what a person has to correct is a ConfigError."""
    if isinstance(error, LinesideError):
        return error
    kind = kind_of(error, received=False)
    if kind in ("credentials", "absent", "refused"):
        return ConfigError(f"{_ADVICE.get(kind, _ADVICE['absent'])}; {type(error).__name__}")
    return DependencyDownError("llm", f"{_ADVICE['away']}; {type(error).__name__}: {error}")
