"""Hugging Face Text Generation Inference: its chat route, else `/generate_stream`.

The chat route applies the model's own template, which instruct models need. A model without
a template (TGI answers `Template error`) gets the plain prompt over `/generate_stream`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from adapters.text_models.deadlines import within_limits
from adapters.text_models.failures import BrokenAnswerError, status_of, to_check_error
from adapters.text_models.openai_chat import TEMPERATURE, chat_pieces
from adapters.text_models.server import LlmServer


async def generate_pieces(
    server: LlmServer, prompt: str, *, max_tokens: int
) -> AsyncGenerator[str, None]:
    """Yield the pieces of `/generate_stream`; special tokens become signs of life.

    Raises:
        BrokenAnswerError: the stream ended before its closing event.
    """
    async with server.open_client("/generate_stream") as client:
        events: Any = await client.text_generation(
            prompt,
            details=True,
            stream=True,
            max_new_tokens=max_tokens,
            temperature=TEMPERATURE,
            return_full_text=False,
        )
        finished = False
        async with aclosing(events):
            async for event in events:
                finished = finished or event.generated_text is not None
                token = event.token
                yield "" if token is None or token.special else str(token.text)
        if not finished:
            raise BrokenAnswerError("the stream ended without its closing event")


class TgiModel:
    """`TextModel` over TGI, through huggingface_hub's AsyncInferenceClient."""

    def __init__(self, server: LlmServer) -> None:
        """Keep where the server is; nothing is opened before the first call."""
        self.name = server.model or "tgi"
        self._server = server
        self._slots = asyncio.Semaphore(server.limits.concurrency)
        self._named = server.model is not None
        self._has_chat = True

    def stream(self, system: str, user: str, *, max_tokens: int) -> AsyncIterator[str]:
        """Fulfil `TextModel.stream`."""
        pieces = self._pieces(system, user, max_tokens)
        return within_limits(pieces, self._server.limits, self._slots)

    async def _pieces(self, system: str, user: str, max_tokens: int) -> AsyncGenerator[str, None]:
        if not self._named:
            await self._learn_name()
        if self._has_chat:
            chat = chat_pieces(
                self._server, system, user, model=self._server.model, max_tokens=max_tokens
            )
            try:
                async with aclosing(chat):
                    async for piece in chat:
                        yield piece
            except Exception as error:
                if not _lacks_chat(error):
                    raise
                self._has_chat = False
            else:
                return
        prompt = f"{system}\n\n{user}\n\n"
        plain = generate_pieces(self._server, prompt, max_tokens=max_tokens)
        async with aclosing(plain):
            async for piece in plain:
                yield piece

    async def _learn_name(self) -> None:
        """Ask `/info` which model is served, once; a peer without that route keeps `tgi`."""
        try:
            answer = await self._server.get_json("/info")
            self.name = str(answer["model_id"])
        except Exception as error:
            if status_of(error) != 404:
                raise
        self._named = True

    async def check(self) -> str:
        """Ask `/health` and `/info`, then for one token.

        Raises:
            DependencyDownError: away, still loading, or overloaded.
            ConfigError: credentials refused, or no such route.
        """
        pieces = self._pieces("ping", "ping", 1)
        try:
            async with (
                asyncio.timeout(self._server.limits.first_token_s),
                aclosing(pieces),
            ):
                await anext(pieces, None)
        except Exception as error:
            raise to_check_error(error) from error
        return self.name


def _lacks_chat(error: Exception) -> bool:
    """Whether the server has no chat route, or the model no chat template."""
    if status_of(error) in (404, 405):
        return True
    response = getattr(error, "response", None)
    text = str(getattr(response, "text", "")) if response is not None else ""
    return "template" in f"{error} {text}".lower()
