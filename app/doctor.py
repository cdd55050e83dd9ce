"""One real round trip per dependency, and what to do where one is wrong."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import shutil
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from adapters.kafka.admin import check as check_kafka
from adapters.sql.engine import open_database
from adapters.sql.outbox import SqlOutbox
from adapters.weights import load_weights
from app.resources import bootstrap_servers, kafka_connection, open_store
from app.settings import Settings, unknown_settings
from app.text_models import build_text_model
from pipeline.errors import ConfigError, DependencyDownError, LinesideError

_LIMIT_S = 15.0
# Weights are read on this machine, after torch is imported: a busy one takes its time for that.
_LIMITS_S = {"embed weights": 120.0, "anomaly weights": 120.0}
_LOW_DISK_BYTES = 5_000_000_000


class Finding(NamedTuple):
    """What one check found: `ok`, `away`, `refused`, `wrong` or `warning`, and a sentence."""

    name: str
    state: str
    detail: str

    @property
    def is_bad(self) -> bool:
        """Whether it must be mended before production."""
        return self.state not in {"ok", "warning"}


async def examine(settings: Settings) -> list[Finding]:
    """Run every check, beside each other; none hinders another."""
    checks: dict[str, Callable[[Settings], Awaitable[str]]] = {
        "settings": _names,
        "broker": _broker,
        "storage": _storage,
        "database": _database,
        "llm server": _llm,
        "embed weights": lambda s: _weights(s.embed.model, s.embed.weights),
        "anomaly weights": lambda s: _weights(s.anomaly.backbone, s.anomaly.weights),
        "disk": _disk,
        "cuda driver": _cuda,
    }
    return list(
        await asyncio.gather(*(_one(name, check(settings)) for name, check in checks.items()))
    )


# How servers say that they do not know us; "connection refused" is none of them.
_REFUSALS = (
    "signaturedoesnotmatch", "invalidaccesskeyid", "accessdenied", "access denied", "credential",
    "password", "authentication", "unauthorized", "forbidden", "sasl",
)  # fmt: skip
_SETTINGS = {
    "broker": "LINESIDE_KAFKA__*",
    "storage": "LINESIDE_OBJECTS__URL, __ACCESS_KEY and __SECRET_KEY",
    "database": "LINESIDE_DATABASE__URL",
    "llm server": "LINESIDE_LLM__BASE_URL and __API_KEY",
    "embed weights": "LINESIDE_EMBED__MODEL and __WEIGHTS",
    "anomaly weights": "LINESIDE_ANOMALY__BACKBONE and __WEIGHTS",
}


async def _one(name: str, check: Awaitable[str]) -> Finding:
    limit_s = _LIMITS_S.get(name, _LIMIT_S)
    try:
        async with asyncio.timeout(limit_s):
            detail = await check
    except TimeoutError:
        return Finding(name, "away", f"no answer within {limit_s:.0f} s; {_what_to_do(name)}")
    except LinesideError as error:
        return _as_finding(name, error)
    warned = detail.startswith("warning: ")
    return Finding(name, "warning" if warned else "ok", detail.removeprefix("warning: "))


def _as_finding(name: str, error: LinesideError) -> Finding:
    text = str(error)
    if any(word in text.lower() for word in _REFUSALS):
        return Finding(name, "refused", f"{text}; {_what_to_do(name)}")
    if isinstance(error, DependencyDownError):
        return Finding(name, "away", f"{text}; start it, or {_what_to_do(name)}")
    return Finding(name, "wrong", text)


def _what_to_do(name: str) -> str:
    return f"correct {_SETTINGS[name]}" if name in _SETTINGS else "try again"


async def _names(settings: Settings) -> str:  # noqa: ARG001 - every check takes the settings
    unknown = unknown_settings()
    return f"warning: {'; '.join(unknown)}" if unknown else "every name is one of a setting"


async def _broker(settings: Settings) -> str:
    return await check_kafka(kafka_connection(settings, bootstrap_servers(settings)))


async def _storage(settings: Settings) -> str:
    """Write, read back and remove an object under a key of its own."""
    data = secrets.token_bytes(64)
    key = f"doctor/{hashlib.sha256(data).hexdigest()}"
    async with open_store(settings) as store:
        await store.put(key, data, content_type="application/octet-stream")
        found = await store.get(key)
        await store.delete(key)
    if found != data:
        raise ConfigError(f"{settings.objects_url} returned other bytes than were written")
    return f"{settings.objects_url.split('?')[0]}: wrote, read and removed an object"


async def _database(settings: Settings) -> str:
    async with open_database(settings.database_url) as database:
        revision = await database.read(
            lambda connection: connection.exec_driver_sql(
                "SELECT version_num FROM alembic_version"
            ).scalar_one()
        )
        outbox = await SqlOutbox(database, source="/lineside/doctor").backlog()
    text = f"{database.dialect}, tables at revision {revision}"
    if outbox.refused:
        return f"warning: {text}; events set aside: {outbox.refused}, see lineside outbox list"
    return text


async def _llm(settings: Settings) -> str:
    model = build_text_model(settings)
    if model is None:
        return "none set; reports are excerpts of the manuals (LINESIDE_LLM__BASE_URL)"
    return f"{settings.llm.base_url} serves {await model.check()}"


async def _weights(model: str, explicit: object) -> str:
    from pathlib import Path  # noqa: PLC0415 - only to narrow the type

    path = explicit if isinstance(explicit, Path) else None
    found = await asyncio.to_thread(load_weights, model, path)
    return f"{model} from {found.source}, sha256 {found.sha256[:12]}"


async def _disk(settings: Settings) -> str:
    folder = settings.state_dir if settings.state_dir.exists() else settings.state_dir.parent
    free = shutil.disk_usage(folder.resolve()).free
    text = f"{free / 1e9:.1f} GB free below {settings.state_dir}"
    if free < _LOW_DISK_BYTES:
        return f"warning: {text}; images and the log need room"
    return text


async def _cuda(settings: Settings) -> str:  # noqa: ARG001 - every check takes the settings
    try:
        import torch  # noqa: PLC0415 - not in every role
    except ImportError:
        return "no torch in this environment; nothing to check"
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}"
    return f"no GPU; models run on {torch.get_num_threads()} CPU threads"
