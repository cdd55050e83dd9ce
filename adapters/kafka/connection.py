"""How to reach a Kafka cluster, and what its clients' errors mean to the pipeline."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import errors
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.helpers import create_ssl_context
from aiokafka.protocol.metadata import MetadataRequest

from pipeline.errors import (
    ConfigError,
    DependencyDownError,
    LinesideError,
    StalledError,
    TransientError,
)

KAFKA = "kafka"
_LISTENING_S = 0.5
_LEAVE_LIMIT_S = 5.0
_CLOSE_LIMIT_S = 2.0

# The broker, or the way to it, is away: nothing is wrong with what was asked.
_AWAY = (
    errors.KafkaConnectionError,
    errors.KafkaTimeoutError,
    errors.KafkaUnavailableError,
    errors.NodeNotReadyError,
    errors.RequestTimedOutError,
    errors.CoordinatorNotAvailableError,
    errors.LeaderNotAvailableError,
    errors.NotLeaderForPartitionError,
    errors.NotEnoughReplicasError,
    errors.NotEnoughReplicasAfterAppendError,
    errors.StaleMetadata,
    TimeoutError,
    OSError,
)


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """Address and credentials. The password never shows in a repr."""

    bootstrap_servers: str
    client_id: str = "lineside"
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "PLAIN"
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None

    def client_options(self) -> dict[str, Any]:
        """Keyword arguments that every aiokafka client takes.

        Raises:
            ConfigError: a certificate file cannot be read.
        """
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers,
            "client_id": self.client_id,
            "security_protocol": self.security_protocol,
        }
        if self.security_protocol.startswith("SASL"):
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_username
            options["sasl_plain_password"] = self.sasl_password
        if self.security_protocol.endswith("SSL"):
            try:
                options["ssl_context"] = create_ssl_context(
                    cafile=self.ssl_cafile, certfile=self.ssl_certfile, keyfile=self.ssl_keyfile
                )
            except OSError as error:
                raise ConfigError(
                    f"LINESIDE_KAFKA__SSL_CAFILE, __SSL_CERTFILE, __SSL_KEYFILE: {error}"
                ) from None
        return options


def is_away(error: BaseException) -> bool:
    """Whether an error means that the broker cannot be reached now."""
    return isinstance(error, _AWAY)


def as_transient(error: Exception, doing: str) -> TransientError:
    """Return what the pipeline raises for something that may be tried again.

    `doing` says what failed, for people: `commit of group embed`.
    """
    words = str(error) or type(error).__name__
    if is_away(error):
        return DependencyDownError(KAFKA, f"{doing}: the broker does not answer ({words})")
    return TransientError(f"{doing}: {words}")


def as_stalled(error: Exception, doing: str) -> DependencyDownError | StalledError:
    """Return what the pipeline raises when a client cannot go on by itself."""
    words = str(error) or type(error).__name__
    if is_away(error):
        return DependencyDownError(KAFKA, f"{doing}: the broker does not answer ({words})")
    return StalledError(f"{doing}: {type(error).__name__}: {error}")


async def stop_quietly(client: Any, limit_s: float = 10.0) -> None:
    """Stop an aiokafka client; its `stop` may hang or raise (aiokafka issues 773 and 647).

    With the broker away a consumer's `stop` ends in a CancelledError of its own fetches. In our
    task that would look as if somebody had cancelled us, and the caller would end in silence; so
    it runs in a task of its own, and the connections that it left open are closed after it.
    """
    error = await _apart(client.stop(), limit_s)
    if error is None:
        return
    if not isinstance(error, (TimeoutError, asyncio.CancelledError, errors.KafkaError, OSError)):
        raise error
    # Not public for a consumer; a second `stop` would do nothing.
    connections = getattr(client, "_client", None) or getattr(client, "client", None)
    if connections is not None:
        await _apart(connections.close(), _CLOSE_LIMIT_S)


async def _apart(doing: Awaitable[object], limit_s: float) -> BaseException | None:
    """Await in a task of its own; returns how that failed, TimeoutError if it took too long."""
    task = asyncio.ensure_future(doing)
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    try:
        done, _ = await asyncio.wait({task}, timeout=limit_s)
    finally:
        task.cancel()
    if not done:
        return TimeoutError()
    return asyncio.CancelledError() if task.cancelled() else task.exception()


async def leave(consumer: Any) -> None:
    """Stop a consumer; one that hangs is taken apart, lest it comes back to life in the group."""
    await stop_quietly(consumer, _LEAVE_LIMIT_S)
    # Not public: a `stop` that was given up leaves these running (aiokafka issue 773).
    coordinator, fetcher = consumer._coordinator, consumer._fetcher  # noqa: SLF001 - see above
    for owner, names in (
        (coordinator, ("_coordination_task", "_heartbeat_task", "_commit_refresh_task")),
        (fetcher, ("_fetch_task",)),
    ):
        for name in names:
            task = getattr(owner, name, None)
            if task is not None and not task.done():
                task.cancel()
    for task in list(getattr(fetcher, "_pending_tasks", ())):
        task.cancel()
    with contextlib.suppress(errors.KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(_LEAVE_LIMIT_S):
            await consumer._client.close()  # noqa: SLF001 - see above


async def explain_refusal(connection: KafkaConnection, error: Exception) -> LinesideError:
    """Tell refused credentials from a broker that is away; a client's bootstrap says neither."""
    where = f"Kafka at {connection.bootstrap_servers}"
    for host, port, _ in collect_hosts(connection.bootstrap_servers):
        reason = await _knock(connection, host, port)
        if reason is not None:
            return ConfigError(
                f"{where} {reason}; check LINESIDE_KAFKA__SECURITY_PROTOCOL, __SASL_MECHANISM, "
                "__SASL_USERNAME, __SASL_PASSWORD and __SSL_CAFILE"
            )
    return DependencyDownError(
        KAFKA,
        f"{where} does not answer ({error}); start it, "
        "or correct LINESIDE_KAFKA__BOOTSTRAP_SERVERS",
    )


async def _knock(connection: KafkaConnection, host: str, port: int) -> str | None:
    """Return how a broker that is there refuses us, None when it is away or lets us in."""
    options = connection.client_options()
    del options["bootstrap_servers"]
    try:
        opened = await create_conn(host, port, **options, request_timeout_ms=5000)
        try:
            # Connecting is not enough: a broker that wants a password says so only now.
            await opened.send(MetadataRequest([]))
        finally:
            opened.close()
    except (errors.KafkaConnectionError, ConnectionResetError, BrokenPipeError):
        # A broker that wants a password listens until it is spoken to; a proxy whose broker is
        # gone, or a broker that is just dying, hangs up by itself.
        return "hangs up before it says a word" if await _listens(host, port) else None
    except (errors.KafkaError, ValueError) as refusal:
        return f"refuses the credentials ({refusal})"
    except ssl.SSLError as refusal:
        return f"does not accept the TLS settings ({refusal.reason})"
    except (TimeoutError, OSError):
        return None
    return None


async def _listens(host: str, port: int) -> bool:
    """Whether somebody accepts a connection and then waits to be spoken to."""
    try:
        async with asyncio.timeout(_LISTENING_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                await reader.read(1)
            finally:
                writer.transport.abort()
    except TimeoutError:
        return True
    except OSError:
        return False
    return False
