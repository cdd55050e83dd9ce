"""A language model server: its address, the limits of a call, and one client per call.

Three traps of huggingface_hub are closed here, each found by reading and running 1.16:

* a base URL without `http://` is taken for a model id and the prompt would go to the public hub;
* without a key the client sends the machine's own hub login to whatever server is asked;
* HF_HUB_OFFLINE, set for weights, would also cut off a language model in the next room.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx
from huggingface_hub import AsyncInferenceClient, get_async_session, set_async_client_factory

from pipeline.errors import ConfigError

# What servers without credentials are commonly sent; it keeps the machine's own login at home.
_NO_KEY = "none"


@dataclass(frozen=True, slots=True)
class TextModelLimits:
    """Limits of one call, in seconds, and how many calls may run at once.

    `first_token_s` also bounds the wait for a free slot, the connection and any silence between
    two tokens. `concurrency` stays below the server's own limit (TGI refuses the 129th).
    """

    first_token_s: float = 15.0
    total_s: float = 60.0
    concurrency: int = 4


@dataclass(frozen=True, slots=True)
class LlmServer:
    """Where the server is and what it is called with.

    Raises:
        ConfigError: `base_url` is no http or https address.
    """

    base_url: str
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    limits: TextModelLimits = TextModelLimits()

    def __post_init__(self) -> None:
        """Refuse an address that the client would take for a model on the public hub."""
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"LINESIDE_LLM__BASE_URL={self.base_url}: write http://host:port or https://host"
            )

    @property
    def root(self) -> str:
        """The address without `/v1` and without a slash at the end."""
        return self.base_url.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")

    def open_client(self, path: str = "/v1") -> AsyncInferenceClient:
        """Return a client for one call; leaving its context closes the connection.

        The server sees that and stops computing (TGI #495): a shared client would keep the
        connection of a call that was given up.
        """
        _session_class()  # looked up before the factory is ours
        set_async_client_factory(_plain_session)
        return AsyncInferenceClient(
            base_url=f"{self.root}{path}",
            api_key=self.api_key or _NO_KEY,
            timeout=self.limits.first_token_s,
        )

    async def get_json(self, path: str) -> Any:
        """Return the JSON answer to a GET.

        Raises:
            httpx.HTTPError: no answer, or one of 400 and above.
            ValueError: no JSON.
        """
        headers = {"authorization": f"Bearer {self.api_key or _NO_KEY}"}
        timeout = httpx.Timeout(self.limits.first_token_s)
        session = httpx.AsyncClient(headers=headers, timeout=timeout, verify=_trusted_roots())
        async with session as client:
            response = await client.get(f"{self.root}{path}")
            response.raise_for_status()
            return response.json()


@cache
def _trusted_roots() -> ssl.SSLContext:
    """Load the certificates once: reading them costs 20 ms, on the event loop."""
    return ssl.create_default_context()


@cache
def _session_class() -> Callable[..., Any]:
    """Class of the client's sessions: httpx up to huggingface_hub 1, httpx2 from 2 on."""
    return type(get_async_session())


def _plain_session() -> Any:
    return _session_class()(
        verify=_trusted_roots(), timeout=None, event_hooks={"response": [_read_refusal]}
    )


async def _read_refusal(response: Any) -> None:
    """Read the body of a refusal, which the client quotes although the call is a stream."""
    if response.status_code >= 400:
        await response.aread()
