"""One call to a language model: a slot, a first token in time, an end in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from adapters.text_models.failures import to_port_error
from adapters.text_models.server import TextModelLimits
from pipeline.errors import DependencyDownError, LinesideError, TransientError


async def within_limits(
    pieces: AsyncGenerator[str, None], limits: TextModelLimits, slots: asyncio.Semaphore
) -> AsyncIterator[str]:
    """Yield the non-empty pieces of an answer, within the limits of a call.

    An empty piece is a sign of life and counts as the first token. Deadlines wrap single steps,
    never a `yield`: the caller's own time between two pieces must not be cancelled by ours.

    Raises:
        DependencyDownError: no slot, or no sign of life, within `first_token_s`.
        TransientError: the answer broke off, or took longer than `total_s`.
        PoisonError: the server refuses this prompt.
    """
    now = asyncio.get_running_loop().time
    end = now() + limits.total_s
    first = min(now() + limits.first_token_s, end)
    await _acquire(slots, first)
    received = False
    try:
        async with aclosing(pieces):
            while True:
                try:
                    async with asyncio.timeout_at(end if received else first):
                        piece = await anext(pieces)
                except StopAsyncIteration:
                    return
                except TimeoutError as error:
                    raise _late(error, limits, received=received) from error
                except Exception as error:
                    raise to_port_error(error, received=received) from error
                received = True
                if piece:
                    yield piece
    finally:
        slots.release()


async def _acquire(slots: asyncio.Semaphore, deadline: float) -> None:
    try:
        async with asyncio.timeout_at(deadline):
            await slots.acquire()
    except TimeoutError:
        raise DependencyDownError("llm", "all slots of the language model are taken") from None


def _late(error: TimeoutError, limits: TextModelLimits, *, received: bool) -> LinesideError:
    if received:
        return TransientError(f"the answer took longer than {limits.total_s:g} s, or fell silent")
    detail = f"no first token within {limits.first_token_s:g} s"
    return DependencyDownError("llm", f"{detail} ({type(error).__name__})")
