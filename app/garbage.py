"""Python's cycle collector, set for processes that live long and make many objects a second."""

from __future__ import annotations

import gc

# Net new containers before the youngest are looked at (Python's own: 700), and how many rounds
# of one generation make one of the next. Higher saves no more, and keeps more garbage about.
_THRESHOLDS = (10_000, 20, 20)


def calm_collector() -> None:
    """Call once all is built: what is there now is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
