"""The commands' way to a running Lineside: its HTTP API."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx

from pipeline.errors import ConfigError, RefusedError

Json = dict[str, Any]

# Files sent in one request: few enough to show progress, many enough to be fast.
FILES_PER_REQUEST = 8
_RETRIED = {429, 503, 507}
_GIVE_UP_S = 60.0


def default_url() -> str:
    """Where Lineside listens: LINESIDE_URL, else what `up` noted in the state folder."""
    named = os.environ.get("LINESIDE_URL")
    if named:
        return named
    state = Path(os.environ.get("LINESIDE_STATE_DIR", "state")) / "web.json"
    try:
        return str(json.loads(state.read_text("utf-8"))["url"])
    except (OSError, ValueError, KeyError):
        return "http://127.0.0.1:5000"


def product_path(code: str, *more: str) -> str:
    """Return a product's path, whatever its code holds."""
    return "/".join(("/v1/products", *(quote(part, safe="") for part in (code, *more))))


class Client:
    """One connection. Overload (429, 503, 507) is waited out as the server asks, for a minute.

    Raises:
        ConfigError: nobody listens at `url`, or somebody else.
        RefusedError: the server refuses, with its own words on what to do.
    """

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        """Take `url` and `token`, else LINESIDE_URL and LINESIDE_TOKEN."""
        self.url = (url or default_url()).rstrip("/")
        token = token or os.environ.get("LINESIDE_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._http.close()

    def call(self, method: str, path: str, **arguments: Any) -> Json:
        """Send one request and return its JSON."""
        answer = self._request(method, path, **arguments)
        try:
            return dict(answer.json()) if answer.content else {}
        except (TypeError, ValueError):
            message = f"what answers at {self.url} is no Lineside; set LINESIDE_URL, or --url"
            raise ConfigError(message) from None

    def download(self, path: str) -> bytes:
        """Return the bytes of a file."""
        return self._request("GET", path).content

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        deadline = time.monotonic() + _GIVE_UP_S
        while True:
            try:
                answer = self._http.request(method, path, **arguments)
            except httpx.TransportError as error:
                message = f"nobody answers at {self.url} ({error}); start it with: lineside up"
                raise ConfigError(message) from None
            if answer.status_code not in _RETRIED or time.monotonic() > deadline:
                break
            time.sleep(min(float(answer.headers.get("Retry-After", "1")), 5.0))
        if answer.is_error:
            raise _refusal(answer)
        return answer

    def get(self, path: str, **query: Any) -> Json:
        """GET; query values that are None are left out."""
        return self.call("GET", path, params={k: v for k, v in query.items() if v is not None})

    def pages(self, path: str, field: str, **query: Any) -> Iterator[Json]:
        """Walk a list to its end."""
        cursor: str | None = None
        while True:
            page = self.get(path, cursor=cursor, **query)
            yield from page[field]
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def put_product(self, code: str, **settings: Any) -> Json:
        """Create a product or change what differs; returns its record."""
        path = product_path(code)
        try:
            current = self.get(path)
        except RefusedError as error:
            if error.slug != "unknown_product":
                raise
            current = {"revision": 0}
        if all(current.get(name) == value for name, value in settings.items()):
            return current
        return self.call("PUT", path, json={"revision": current["revision"], **settings})

    def send_files(
        self,
        path: str,
        files: Sequence[Path],
        *,
        fields: Json | None = None,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> list[Json]:
        """Send files in small groups; returns one result per file, in order."""
        results: list[Json] = []
        for start in range(0, len(files), FILES_PER_REQUEST):
            group = files[start : start + FILES_PER_REQUEST]
            parts = [("file", (file.name, file.read_bytes())) for file in group]
            answer = self.call("POST", path, files=parts, data=fields or {})
            results += answer["files"]
            on_progress(len(group))
        return results

    def build_bank(
        self, code: str, *, on_progress: Callable[[Json], None] = lambda _: None
    ) -> Json:
        """Ask for a memory bank and wait for it; returns the finished job.

        Raises:
            RefusedError: `bank_failed`, with the builder's reason.
        """
        job = self.call("POST", product_path(code, "banks"), json={"requested_by": "cli"})
        while True:
            state = self.get(job["job_url"])
            on_progress(state)
            if state["state"] == "failed":
                raise RefusedError(409, "bank_failed", f"{code}: {state.get('error')}")
            if state["state"] == "done":
                return state
            time.sleep(0.2)

    def activate_bank(self, code: str, version: str, *, deadline_s: float = 30.0) -> Json:
        """Make a bank the one that judges; waits until the tables know it."""
        deadline = time.monotonic() + deadline_s
        while True:
            try:
                return self.put_product(code, active_bank=version)
            except RefusedError as error:
                if error.status not in {409, 422} or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


def _refusal(answer: httpx.Response) -> RefusedError:
    try:
        problem = answer.json()
        detail = str(problem.get("detail") or problem.get("title") or answer.text)
        for item in problem.get("errors") or ():
            detail += f"; {item.get('field')}: {item.get('message')}"
        slug = str(problem.get("slug", "http_error"))
        if answer.status_code == 401:
            detail = "a token is needed; set LINESIDE_TOKEN to one of the server's"
    except ValueError:
        detail, slug = answer.text[:200] or answer.reason_phrase, "http_error"
    return RefusedError(answer.status_code, slug, detail)
