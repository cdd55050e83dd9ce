"""A language model server that does what it is told to, over real HTTP.

Speaks what `adapters/text_models` speaks: TGI (`/generate_stream`, `/info`, `/health`) and OpenAI
chat (`/v1/chat/completions`, `/v1/models`). By hand over asyncio streams, because a web
framework would not let an answer die in the middle. Run it for a look at the wire:

    python -m app.chaos.scripted_llm --port 5001 --mode answer
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import secrets
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self

Mode = Literal[
    "answer",  # manual sentences with citations, a token slipped into each
    "slow",  # as answer, 0.4 s before the first piece and 0.1 s between pieces
    "thinking",  # as answer, after a <think> block
    "wrong_citations",  # true sentences that cite excerpts which do not hold them
    "invented_numbers",  # sentences with one number changed
    "no_citations",
    "prose",  # text in no format at all
    "overloaded",  # 429
    "loading",  # 503
    "invalid",  # 422
    "failed",  # 424
    "unauthorized",  # 401
    "hang",  # accepts the request and never answers
    "stall",  # some pieces, then silence
    "die",  # some pieces, then the connection is reset
    "cut",  # some pieces, then a clean end without a finish reason
    "broken_json",  # an event that is no JSON
    "error_event",  # TGI's error inside a stream of status 200
    "overloaded_event",  # the same for too many requests
    "no_listing",  # /v1/models fails (transformers serve without a hub cache), chat works
    "no_template",  # the chat route knows no template; generate_stream works
]

_REFUSALS: dict[str, tuple[int, str, str]] = {
    "overloaded": (429, "Model is overloaded", "overloaded"),
    "loading": (503, "unhealthy", "healthcheck"),
    "invalid": (422, "Input validation error: `inputs` must have less than 99", "validation"),
    "failed": (424, "Request failed during generation: CUDA error", "generation"),
    "unauthorized": (401, "Unauthorized", "unauthorized"),
}
_EVENTS = {
    "error_event": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 99",
    "overloaded_event": "Model is overloaded",
}
_EXCERPT = re.compile(
    r"^\[(?:Excerpt|발췌) (\d+)\][^\n]*\n(.*?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL
)
_SECTIONS = ("immediate_action", "causes", "checks", "correction", "prevention")


class Request(NamedTuple):
    """What was asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        """All text of the prompt, whichever route carried it."""
        if "messages" in self.body:
            return "\n\n".join(message["content"] for message in self.body["messages"])
        return str(self.body.get("inputs", ""))


def random_token() -> str:
    """Return a word that nobody can guess, of letters alone: a number would need a source."""
    return "".join(secrets.choice("bcdfghjkmnpqrstvwxz") for _ in range(12))


@dataclass(slots=True)
class ScriptedLlm:
    """The server. `mode` may change at any time; `modes` is used up first, one per answer.

    `pace_s` passes before each piece of any answer, as a model's tokens take their time.
    `disconnects` counts clients that left before the end of an answer.
    """

    mode: Mode = "answer"
    token: str = field(default_factory=random_token)
    model: str = "scripted"
    api_key: str | None = None
    modes: list[Mode] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    disconnects: int = 0
    port: int = 0
    pace_s: float = 0.0
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen on `port`, a free one when 0."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections from now on; the open ones break."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._open):
                writer.transport.abort()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Stop."""
        await self.stop()

    @property
    def asked(self) -> list[Request]:
        """Requests for text, without the look-ups of names."""
        return [request for request in self.requests if request.method == "POST"]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._open.add(writer)
        try:
            request = await _read_request(reader)
            if request is not None:
                self.requests.append(request)
                await self._answer(request, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.disconnects += 1
        finally:
            self._open.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        mode = self.modes.pop(0) if request.method == "POST" and self.modes else self.mode
        key = request.headers.get("authorization", "")
        if mode == "unauthorized" or (self.api_key and key != f"Bearer {self.api_key}"):
            await _send_json(writer, 401, {"error": "Unauthorized", "error_type": "unauthorized"})
        elif request.method == "GET":
            await self._send_facts(request.path, writer, mode)
        elif mode in _REFUSALS:
            status, message, kind = _REFUSALS[mode]
            await _send_json(writer, status, {"error": message, "error_type": kind})
        elif mode == "no_template" and "chat" in request.path:
            body = {"error": "Template error: template not found", "error_type": "template_error"}
            await _send_json(writer, 422, body)
        else:
            await self._stream(request, mode, reader, writer)

    async def _send_facts(self, path: str, writer: asyncio.StreamWriter, mode: Mode) -> None:
        if mode == "loading":
            await _send_json(writer, 503, {"error": "unhealthy", "error_type": "healthcheck"})
        elif path == "/health":
            await _send_json(writer, 200, {})
        elif path == "/info":
            await _send_json(writer, 200, {"model_id": self.model, "version": "3.3.7"})
        elif path == "/v1/models" and mode == "no_listing":
            await _send_json(writer, 500, {"error": "Internal Server Error"})
        elif path == "/v1/models":
            await _send_json(writer, 200, {"object": "list", "data": [{"id": self.model}]})
        else:
            await _send_json(writer, 404, {"error": "not found"})

    async def _stream(
        self,
        request: Request,
        mode: Mode,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if mode == "hang":
            await self._until_gone(reader)
            return
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked"
        writer.write(f"{head}\r\nconnection: close\r\n\r\n".encode())
        if mode in _EVENTS:
            error = {"message": _EVENTS[mode], "http_status_code": 422}
            await _send_event(writer, json.dumps({"error": error}))
        elif mode == "broken_json":
            await _send_event(writer, '{"choices": [{"delta": {"conte')
        else:
            chat = "chat" in request.path
            gone = asyncio.create_task(reader.read())
            try:
                async for event in self._events(request, mode, chat=chat):
                    await _send_event(writer, event)
                    if gone.done():
                        self.disconnects += 1
                        return
                if mode == "stall":
                    await gone
                    self.disconnects += 1
                    return
                if mode == "die":
                    writer.transport.abort()
                    return
            finally:
                gone.cancel()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _until_gone(self, reader: asyncio.StreamReader) -> None:
        await reader.read()
        self.disconnects += 1

    async def _events(self, request: Request, mode: Mode, *, chat: bool) -> AsyncIterator[str]:
        text = self.text_for(request.prompt, mode)
        pieces = re.findall(r"\S+\s*|\s+", text)
        if request.body.get("max_tokens"):
            pieces = pieces[: int(request.body["max_tokens"])]
        if mode in ("die", "stall", "cut"):
            pieces = pieces[: len(pieces) // 2]
        if mode == "slow":
            await asyncio.sleep(0.4)
        for piece in pieces:
            if pause_s := 0.1 if mode == "slow" else self.pace_s:
                await asyncio.sleep(pause_s)
            yield json.dumps(_chat_chunk(self.model, piece) if chat else _token_event(piece))
        if mode in ("die", "stall", "cut"):
            return
        if chat:
            yield json.dumps(_chat_chunk(self.model, None))
            yield "[DONE]"
        else:
            yield json.dumps(_token_event("</s>", closing=text))

    def text_for(self, prompt: str, mode: Mode) -> str:
        """Return what the model says to a prompt: sentences of the excerpts it was given."""
        if mode == "prose":
            return "Everything is fine. Please call somebody who knows. Set it to 42 N."
        excerpts = [(int(number), body.strip()) for number, body in _EXCERPT.findall(prompt)]
        lines = ["<think>", "causes | Let me see [1]", "</think>"] if mode == "thinking" else []
        for index, section in enumerate(_SECTIONS if excerpts else ()):
            number, body = excerpts[index % len(excerpts)]
            citation = self._citation(number, len(excerpts), mode)
            lines.append(f"{section} | {self._sentence(body, index, mode)} {citation}")
        return "\n".join(lines)

    def _sentence(self, body: str, index: int, mode: Mode) -> str:
        parts = re.split(r"\n|(?<=[.])\s+", body)
        sentences = [part.strip() for part in parts if len(part.strip()) > 8]
        sentence = sentences[index % len(sentences)].rstrip(".") if sentences else body
        if mode == "invented_numbers":
            return f"{sentence} 4711 mm."
        return f"{sentence} {self.token}."

    def _citation(self, number: int, count: int, mode: Mode) -> str:
        if mode == "no_citations":
            return ""
        if mode == "wrong_citations":
            return f"[{number + count}]"
        return f"[{number}]"


def _chat_chunk(model: str, piece: str | None) -> dict[str, Any]:
    delta = {} if piece is None else {"role": "assistant", "content": piece}
    finish = "stop" if piece is None else None
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "id": "", "model": model, "choices": [choice]}


def _token_event(piece: str, *, closing: str | None = None) -> dict[str, Any]:
    token = {"id": 1, "text": piece, "logprob": 0.0, "special": closing is not None}
    details = None if closing is None else {"finish_reason": "eos_token", "generated_tokens": 9}
    return {"index": 1, "token": token, "generated_text": closing, "details": details}


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    line = (await reader.readline()).decode()
    if not line:
        return None
    method, path, _ = line.split(" ", 2)
    headers: dict[str, str] = {}
    while (header := (await reader.readline()).decode().strip()) != "":
        name, value = header.split(":", 1)
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, path, headers, json.loads(body) if body else {})


async def _send_json(writer: asyncio.StreamWriter, status: int, body: object) -> None:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close"
    writer.write(f"{head}\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
    await writer.drain()


async def _send_event(writer: asyncio.StreamWriter, data: str) -> None:
    event = f"data: {data}\n\n".encode()
    writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
    await writer.drain()


async def _main(port: int, mode: Mode, token: str) -> None:
    async with ScriptedLlm(mode=mode, token=token, port=port) as server:
        sys.stdout.write(json.dumps({"url": server.url, "token": server.token}) + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--mode", default="answer")
    parser.add_argument("--token", default="")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(options.port, options.mode, options.token or random_token()))
