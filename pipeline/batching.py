"""Micro-batches: finding the guilty item of a failed one; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.errors import DependencyDownError


class StageLawError(Exception):
    """The stage broke its contract; results must be as many as items and in their order."""


def check_length(items: Sequence[Any], results: Sequence[Any]) -> Sequence[Any]:
    """Return `results` if there is one per item. Their order only a contract test can check.

    Raises:
        StageLawError: there are more or fewer.
    """
    if len(results) != len(items):
        raise StageLawError(f"infer returned {len(results)} results for {len(items)} items")
    return results


class Bisection:
    """Splits a failed batch until the guilty items stand alone; the others get results.

    Ask `span()` for what to infer next, then report `succeeded` or `failed`. One guilty item
    among n costs about 2 log2(n) extra calls. An outage is no item's fault: it ends the search
    for all items of its span.

    Attributes:
        results: by index, None where there is none.
        errors: by index, of the items that failed.
    """

    def __init__(self, count: int) -> None:
        """Search a batch of `count` items."""
        self.results: list[Any] = [None] * count
        self.errors: dict[int, Exception] = {}
        self._spans = [range(count)] if count else []

    def span(self) -> range | None:
        """Indices to infer next, ascending; None when every item has an outcome."""
        return self._spans[-1] if self._spans else None

    def succeeded(self, results: Sequence[Any]) -> None:
        """Take the results of the current span."""
        span = self._spans.pop()
        self.results[span.start : span.stop] = results

    def failed(self, error: Exception) -> None:
        """Take the failure of the current span: it is one item's, or it is split."""
        span = self._spans.pop()
        if isinstance(error, DependencyDownError) or len(span) == 1:
            self.errors |= dict.fromkeys(span, error)
            return
        middle = (span.start + span.stop) // 2
        self._spans += [range(middle, span.stop), range(span.start, middle)]
