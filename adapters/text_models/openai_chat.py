"""Any server with OpenAI's chat route: vLLM, SGLang, llama.cpp, transformers serve, TGI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import httpx

from adapters.text_models.deadlines import within_limits
from adapters.text_models.failures import BrokenAnswerError, kind_of, to_check_error
from adapters.text_models.server import LlmServer
from pipeline.errors import ConfigError

# TGI refuses 0; so low that equal prompts get nearly equal answers.
TEMPERATURE = 0.1


async def chat_pieces(
    server: LlmServer, system: str, user: str, *, model: str | None, max_tokens: int
) -> AsyncGenerator[str, None]:
    """Yield the pieces of a chat answer; an empty one is a sign of life.

    Raises:
        BrokenAnswerError: the stream ended without a finish reason.
    """
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    async with server.open_client() as client:
        chunks: Any = await client.chat_completion(
            messages, model=model, max_tokens=max_tokens, temperature=TEMPERATURE, stream=True
        )
        finished = False
        async with aclosing(chunks):
            async for chunk in chunks:
                for choice in chunk.choices or ():
                    finished = finished or choice.finish_reason is not None
                    yield (choice.delta.content if choice.delta else None) or ""
        if not finished:
            raise BrokenAnswerError("the stream ended without a finish reason")


class OpenAiChatModel:
    """`TextModel` over `/v1/chat/completions`, through huggingface_hub's AsyncInferenceClient."""

    def __init__(self, server: LlmServer) -> None:
        """Keep where the server is; nothing is opened before the first call."""
        self.name = server.model or "openai"
        self._server = server
        self._slots = asyncio.Semaphore(server.limits.concurrency)
        self._model = server.model

    def stream(self, system: str, user: str, *, max_tokens: int) -> AsyncIterator[str]:
        """Fulfil `TextModel.stream`."""
        pieces = self._pieces(system, user, max_tokens)
        return within_limits(pieces, self._server.limits, self._slots)

    async def _pieces(self, system: str, user: str, max_tokens: int) -> AsyncGenerator[str, None]:
        model = await self._served_model()
        pieces = chat_pieces(self._server, system, user, model=model, max_tokens=max_tokens)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def check(self) -> str:
        """Ask for the models, then for one token.

        Raises:
            DependencyDownError: away or overloaded.
            ConfigError: credentials refused, or no such model.
        """
        try:
            model = self._choose(await self._list_models())
            pieces = chat_pieces(self._server, "ping", "ping", model=model, max_tokens=1)
            async with asyncio.timeout(self._server.limits.first_token_s), aclosing(pieces):
                await anext(pieces, None)
        except Exception as error:
            raise to_check_error(error) from error
        return self.name

    def _choose(self, served: list[str]) -> str | None:
        """Return the configured model, else the first one the server offers."""
        wanted = self._server.model
        if wanted and served and wanted not in served:
            offered = ", ".join(served[:5])
            raise ConfigError(f"LINESIDE_LLM__MODEL={wanted}: the server offers {offered}")
        self._model = wanted or (served[0] if served else None)
        self.name = self._model or self.name
        return self._model

    async def _served_model(self) -> str | None:
        if self._model is None:
            self._choose(await self._list_models())
        return self._model

    async def _list_models(self) -> list[str]:
        try:
            answer = await self._server.get_json("/v1/models")
        except httpx.HTTPStatusError as error:
            # The listing is optional, the chat route is not: some servers have none (404), and
            # transformers serve answers 500 on a machine without a hub cache.
            if kind_of(error, received=False) in ("away", "credentials"):
                raise
            return []
        return [str(row["id"]) for row in answer["data"]]
