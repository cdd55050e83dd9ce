"""How late the event loop wakes up: whatever blocks it delays heartbeats, loads and answers."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from pipeline.telemetry import Telemetry

_EVERY_S = 0.1
_KEPT = 100


class LoopLag:
    """Measures the loop it runs on (a Service); the gauge holds the worst of the last 10 s.

    Attributes:
        worst_s: longest delay since the start.
    """

    name = "loop lag"

    def __init__(self, telemetry: Telemetry, *, bound_s: float = 2.0) -> None:
        """A loop that is later than `bound_s` is not ready."""
        self._telemetry = telemetry
        self._bound_s = bound_s
        self._recent: deque[float] = deque([0.0], maxlen=_KEPT)
        self.worst_s = 0.0

    def not_ready(self) -> Sequence[str]:
        """Say that the loop was held up just now."""
        late_s = self._recent[-1]
        return () if late_s <= self._bound_s else (f"the event loop was {late_s:.1f} s late",)

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due = time.monotonic() + _EVERY_S
            await asyncio.sleep(_EVERY_S)
            late_s = max(0.0, time.monotonic() - due)
            self._recent.append(late_s)
            self.worst_s = max(self.worst_s, late_s)
            self._telemetry.gauge("loop_lag_seconds", max(self._recent))
