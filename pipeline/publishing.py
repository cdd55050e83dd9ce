"""Publishing until acknowledged: what may come right is repeated, in order; the rest is named."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pipeline.dispatch import Dispatch
from pipeline.errors import DependencyDownError, StalledError, TransientError
from pipeline.ports import Clock, EventSink
from pipeline.work import Work
from schemas.message import Message

logger = logging.getLogger(__name__)

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 2.0


class Publisher:
    """Sends one group of outputs at a time, so that none overtakes one that is repeated.

    Attributes:
        trouble: why the log does not acknowledge, None while it does.
    """

    def __init__(
        self, sink: EventSink, dispatch: Dispatch, clock: Clock, *, patience_s: float
    ) -> None:
        """`patience_s`: how long the log may refuse before the worker stops."""
        self._sink = sink
        self._dispatch = dispatch
        self._clock = clock
        self._patience_s = patience_s
        self.trouble: str | None = None

    async def publish(self, works: Sequence[Work]) -> list[Work]:
        """Return those that are acknowledged, or had nothing to publish; the others have failed.

        Raises:
            StalledError: a dead letter was refused, or nothing is acknowledged any more.
        """
        sending = [work for work in works if work.message and not work.partition.closed]
        messages = [work.message for work in sending if work.message]
        refused = await self._send(messages) if messages else {}
        for index, error in refused.items():
            self._refused(sending[index], error)
        failed = {sending[index] for index in refused}
        return [work for work in works if work not in failed] if failed else list(works)

    def _refused(self, work: Work, error: Exception) -> None:
        if work.is_letter:
            raise StalledError(
                f"a dead letter cannot be published ({error}); its record stays uncommitted"
            ) from error
        self._dispatch.failed(work, error)

    async def _send(self, messages: Sequence[Message]) -> dict[int, Exception]:
        """Return once each message is acknowledged or refused: the errors by index."""
        try:
            await self._until_acknowledged(messages)
        except StalledError:
            raise
        except Exception as error:  # noqa: BLE001 - one of them is refused; find out which
            if len(messages) == 1:
                return {0: error}
            refused: dict[int, Exception] = {}
            for index, message in enumerate(messages):
                alone = await self._send([message])
                if alone:
                    refused[index] = alone[0]
            return refused
        return {}

    async def _until_acknowledged(self, messages: Sequence[Message]) -> None:
        deadline = self._clock.monotonic() + self._patience_s
        delay_s = _FIRST_DELAY_S
        while True:
            try:
                await self._sink.publish(messages)
            except TransientError as error:
                self._note(error)
                if isinstance(error, DependencyDownError):
                    # An outage is waited out, however long: another process could do no better.
                    deadline = self._clock.monotonic() + self._patience_s
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

    def _note(self, error: TransientError) -> None:
        if self.trouble is None:
            logger.warning(
                "outputs are not acknowledged, publishing them again",
                extra={"action": "publish_repeated", "error": str(error)[:500]},
            )
        self.trouble = str(error)
