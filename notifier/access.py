"""Who may come in: origins of browsers, and tokens where the network is open."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

COOKIE = "lineside_access"
_OPEN_PATHS = frozenset({"/health"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_COOKIE_DAYS = 30
_WRONG_PER_MINUTE = 30
_REMEMBERED_PEERS = 10_000
_LOGIN_PAGE = """<!doctype html><meta charset="utf-8"><title>Lineside</title>
<form action="/login"><label>접속 토큰 / Access token
<input type="password" name="token" autofocus required></label>
<button>로그인 / Sign in</button></form>"""


@dataclass(frozen=True, slots=True)
class AccessRules:
    """What is asked of a request.

    `tokens` empty: none is needed (the server listens on loopback alone). `allowed_origins`:
    pages of other hosts that may call, such as `https://mes.plant`, or `*`.
    """

    tokens: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()


class Access:
    """ASGI middleware around the whole application.

    A browser's origin is checked on websockets and on everything that changes something; a page
    of the same host is always welcome. A load balancer that changes the host must either pass
    `X-Forwarded-Host` on, or be named in `allowed_origins`.

    Tokens come as `Authorization: Bearer …`, or once through `/login?token=…`, which answers with
    a cookie. Wrong tokens are counted per peer: past the limit wrong ones get 429 and the login
    page refuses all, while cameras with the right token and people with a cookie go on, since
    behind a load balancer all of them share the address of whoever is guessing.
    """

    def __init__(self, app: ASGIApp, rules: AccessRules, *, monotonic: Callable[[], float]) -> None:
        """Only assign."""
        self._app = app
        self._rules = rules
        self._wrong = WrongTokens(monotonic)
        self._tokens = tuple(token.encode() for token in rules.tokens)
        self._cookies = tuple(cookie_value(token) for token in rules.tokens)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through or answer it here."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = _headers(scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(scope, send, refusal)
        elif scope["path"] == "/login" and scope["type"] == "http":
            await _answer(scope, send, self._log_in(scope))
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> Reply | None:
        if not self._is_origin_allowed(scope, headers):
            detail = "this page's address is not allowed; add it to LINESIDE_WEB__ALLOWED_ORIGINS"
            return _problem(403, "origin_not_allowed", detail)
        if not self._tokens or scope["path"] in _OPEN_PATHS or scope["path"] == "/login":
            return None
        if self._has_cookie(headers):
            return None
        given = headers.get("authorization", "")
        if given[:7].lower() == "bearer ":
            return self._check_bearer(scope, given[7:].strip())
        if "text/html" in headers.get("accept", ""):
            return Reply(401, (), _LOGIN_PAGE.encode(), "text/html; charset=utf-8")
        return _unauthorized()

    def _is_origin_allowed(self, scope: Scope, headers: dict[str, str]) -> bool:
        origin = headers.get("origin")
        if origin is None:
            return True  # no browser
        if scope["type"] == "http" and scope["method"] in _READING:
            return True  # the browser itself keeps the answer from a foreign page
        allowed = self._rules.allowed_origins
        if "*" in allowed or origin in allowed:
            return True
        page = _host(origin)
        own = (headers.get("host", ""), headers.get("x-forwarded-host", "").split(",")[0])
        return page is not None and page in {_host(f"//{name.strip()}") for name in own}

    def _has_cookie(self, headers: dict[str, str]) -> bool:
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return morsel is not None and _is_one_of(morsel.value.encode(), self._cookies)

    def _check_bearer(self, scope: Scope, token: str) -> Reply | None:
        if _is_one_of(token.encode("utf-8", "replace"), self._tokens):
            return None
        return _too_many() if self._wrong.note(_peer(scope)) else _unauthorized()

    def _log_in(self, scope: Scope) -> Reply:
        if not self._tokens:
            return Reply(303, (("location", "./"),))
        if self._wrong.is_over(_peer(scope)):
            return _too_many()
        query = parse_qs(scope["query_string"].decode("latin-1"))
        token = query.get("token", [""])[0]
        if not token:
            return Reply(200, (), _LOGIN_PAGE.encode(), "text/html; charset=utf-8")
        if not _is_one_of(token.encode("utf-8", "replace"), self._tokens):
            return _too_many() if self._wrong.note(_peer(scope)) else _unauthorized()
        cookie = (
            f"{COOKIE}={cookie_value(token).decode()}; Path=/; HttpOnly; SameSite=Lax; "
            f"Max-Age={_COOKIE_DAYS * 86_400}"
        )
        if scope.get("scheme") == "https":
            cookie += "; Secure"
        headers = (("location", "./"), ("set-cookie", cookie), ("referrer-policy", "no-referrer"))
        return Reply(303, headers)


class WrongTokens:
    """Counts wrong tokens per peer and minute."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Only assign."""
        self._monotonic = monotonic
        self._counts: dict[str, tuple[float, int]] = {}

    def note(self, peer: str) -> bool:
        """Count one; returns whether the peer is over the limit."""
        began, count = self._current(peer)
        if len(self._counts) >= _REMEMBERED_PEERS:
            self._counts.clear()
        self._counts[peer] = (began, count + 1)
        return count + 1 > _WRONG_PER_MINUTE

    def is_over(self, peer: str) -> bool:
        """Whether the peer is over the limit now."""
        return self._current(peer)[1] > _WRONG_PER_MINUTE

    def _current(self, peer: str) -> tuple[float, int]:
        now = self._monotonic()
        began, count = self._counts.get(peer, (now, 0))
        return (now, 0) if now - began >= 60.0 else (began, count)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that needs no application."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    content_type: str = "application/problem+json"


def cookie_value(token: str) -> bytes:
    """Return what the cookie holds: proof of the token, not the token."""
    return hmac.new(token.encode(), b"lineside cookie", hashlib.sha256).hexdigest().encode()


def _is_one_of(given: bytes, known: Sequence[bytes]) -> bool:
    """Compare with all, in a time that tells nothing of where they differ."""
    return any([hmac.compare_digest(given, item) for item in known])  # noqa: C419 - all, always


def _host(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _headers(scope: Scope) -> dict[str, str]:
    pairs: Any = scope["headers"]
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in pairs}


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _unauthorized() -> Reply:
    detail = "a token is needed: send Authorization: Bearer TOKEN, or open /login?token=TOKEN"
    return _problem(401, "token_needed", detail, ("www-authenticate", "Bearer"))


def _too_many() -> Reply:
    detail = "too many wrong tokens; wait a minute, and correct the sender's token"
    return _problem(429, "too_many_wrong_tokens", detail, ("retry-after", "60"))


def _problem(status: int, slug: str, detail: str, *headers: tuple[str, str]) -> Reply:
    problem = {
        "type": f"/problems/{slug}",
        "slug": slug,
        "title": slug.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
    }
    return Reply(status, headers, json.dumps(problem).encode())


async def _answer(scope: Scope, send: Send, reply: Reply) -> None:
    is_websocket = scope["type"] == "websocket"
    if is_websocket and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": "not allowed"})
        return
    kind = "websocket.http.response" if is_websocket else "http.response"
    size = ("content-length", str(len(reply.body)))
    pairs = [*reply.headers, size, ("cache-control", "no-store")]
    if reply.body:
        pairs.append(("content-type", reply.content_type))
    headers = [(name.encode(), value.encode()) for name, value in pairs]
    await send({"type": f"{kind}.start", "status": reply.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": reply.body})
