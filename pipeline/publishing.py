"""Publishing until acknowledged: what may come right is repeated, in order; the rest is named."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pipeline.errors import StalledError, TransientError
from pipeline.ports import Clock, EventSink
from schemas.message import Message

logger = logging.getLogger(__name__)

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 2.0


class Publisher:
    """Sends one group of outputs at a time, so that none overtakes one that is repeated."""

    def __init__(self, sink: EventSink, clock: Clock, *, patience_s: float) -> None:
        """`patience_s`: how long the log may refuse before the worker stops."""
        self._sink = sink
        self._clock = clock
        self._patience_s = patience_s
        self.trouble: str | None = None

    async def publish(self, messages: Sequence[Message]) -> dict[int, Exception]:
        """Return once every message is acknowledged, or refused: the errors by index.

        Raises:
            StalledError: the log did not take them for `patience_s`.
        """
        try:
            await self._until_acknowledged(messages)
        except StalledError:
            raise
        except Exception as error:  # noqa: BLE001 - one of them is refused; find out which
            if len(messages) == 1:
                return {0: error}
            refused: dict[int, Exception] = {}
            for index, message in enumerate(messages):
                refused |= {index: why for why in (await self.publish([message])).values()}
            return refused
        return {}

    async def _until_acknowledged(self, messages: Sequence[Message]) -> None:
        deadline = self._clock.monotonic() + self._patience_s
        delay_s = _FIRST_DELAY_S
        while True:
            try:
                await self._sink.publish(messages)
            except TransientError as error:
                if self.trouble is None:
                    logger.warning(
                        "outputs are not acknowledged, publishing them again",
                        extra={"action": "publish_repeated", "error": str(error)[:500]},
                    )
                self.trouble = str(error)
                if self._clock.monotonic() + delay_s > deadline:
                    raise StalledError(
                        f"outputs were not acknowledged for {self._patience_s:.0f} s ({error}); "
                        "their inputs stay uncommitted"
                    ) from error
                await self._clock.sleep(delay_s)
                delay_s = min(delay_s * 2, _LONGEST_DELAY_S)
            else:
                self.trouble = None
                return
