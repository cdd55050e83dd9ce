"""Settings: environment with prefix LINESIDE_, or a .env file (interfaces.md section 7)."""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self, get_origin
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from app.setting_names import ENV_FILE, env_file, names_of, nearest, unknown_names
from pipeline.errors import ConfigError

logger = logging.getLogger(__name__)

_warned: set[str] = set()
# Settings whose values no message may show; a database's address holds a password.
_CONFIDENTIAL = ("KEY", "SECRET", "PASSWORD", "TOKEN", "DATABASE__URL")


class Section(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class KafkaSettings(Section):
    """Where the log is; with no servers named, an embedded Apache Kafka."""

    bootstrap_servers: str | None = None
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    embedded_port: int | None = Field(None, ge=1, le=65535)
    partitions: int | None = Field(None, ge=1, le=1000)
    replication_factor: int = Field(1, ge=1, le=9)


class ObjectSettings(Section):
    """Where image bytes lie: `file:///…` or `s3://bucket?endpoint=…`."""

    url: str | None = None
    access_key: SecretStr | None = None
    secret_key: SecretStr | None = None
    allowed_prefixes: tuple[str, ...] = ()


class DatabaseSettings(Section):
    """Where the tables are.

    `cache_mb` bounds the pages of each connection to SQLite, `answer_limit_s` a transaction on
    PostgreSQL.
    """

    url: SecretStr | None = None
    cache_mb: int = Field(4, ge=1, le=1000)
    answer_limit_s: float = Field(20.0, gt=0, le=3600)


class LlmSettings(Section):
    """The language model server; without one, reports are excerpts of the manuals."""

    base_url: str | None = None
    kind: Literal["tgi", "openai"] = "tgi"
    model: str | None = None
    api_key: SecretStr | None = None
    slots: int = Field(4, ge=1, le=128)


class SearchSettings(Section):
    """Where `web` finds the embed role's search, and where that role serves it."""

    url: str = "http://127.0.0.1:5010"
    host: str = "127.0.0.1"
    port: int = Field(5010, ge=0, le=65535)


class EmbedSettings(Section):
    """The image encoder, and the weights' file when they do not come from a package or the hub."""

    model: str = "timm:tf_efficientnet_lite0"
    weights: Path | None = None


class AnomalySettings(Section):
    """PatchCore's backbone and bank."""

    backbone: str = "timm:tf_efficientnet_lite0"
    weights: Path | None = None
    precision: Literal["fp32", "fp16"] = "fp32"
    coreset_ratio: float = Field(0.01, gt=0, le=1)


class WebSettings(Section):
    """The HTTP side."""

    host: str = "127.0.0.1"
    port: int = Field(5000, ge=0, le=65535)
    allowed_origins: tuple[str, ...] = ()
    upload_limit_mb: int = Field(50, ge=1, le=2000)
    tokens: tuple[SecretStr, ...] = ()
    outbox_limit_rows: int = Field(200_000, ge=1)
    outbox_keep_days: float = Field(14, gt=0)
    min_free_disk_mb: int = Field(300, ge=0)
    broker_outage: Literal["accept", "refuse"] = "accept"
    reconcile_after_s: float = Field(60, ge=1)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class FolderSettings(Section):
    """A folder to watch for pictures: `<path>/<product>/…`, or all of one product."""

    path: Path | None = None
    product: str | None = None


class HealthSettings(Section):
    """Where a worker role answers /health, /ready and /metrics; port 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = Field(0, ge=0, le=65535)


class SiteSettings(Section):
    """The plant."""

    timezone: str = "Asia/Seoul"

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ValueError("no such time zone; use a name such as Asia/Seoul") from None
        return name


class Settings(BaseSettings):
    """All settings of a process; immutable once read."""

    model_config = SettingsConfigDict(
        env_prefix="LINESIDE_",
        env_nested_delimiter="__",
        env_file_encoding="utf-8",
        frozen=True,
        extra="ignore",
    )

    state_dir: Path = Path("state")
    kafka: KafkaSettings = KafkaSettings()
    objects: ObjectSettings = ObjectSettings()
    database: DatabaseSettings = DatabaseSettings()
    llm: LlmSettings = LlmSettings()
    search: SearchSettings = SearchSettings()
    embed: EmbedSettings = EmbedSettings()
    anomaly: AnomalySettings = AnomalySettings()
    web: WebSettings = WebSettings()
    folder: FolderSettings = FolderSettings()
    health: HealthSettings = HealthSettings()
    site: SiteSettings = SiteSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - made anew
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the file that the environment names at this moment."""
        file = DotEnvSettingsSource(settings_cls, env_file=env_file())
        return init_settings, env_settings, file, file_secret_settings

    def check_exposure(self) -> Self:
        """Refuse to listen beyond this machine without credentials.

        Raises:
            ConfigError: LINESIDE_WEB__HOST is not loopback and LINESIDE_WEB__TOKENS is empty.
        """
        if not self.web.is_loopback and not self.web.tokens:
            raise ConfigError(
                f"LINESIDE_WEB__HOST={self.web.host}: any address but loopback needs credentials; "
                'set LINESIDE_WEB__TOKENS=["a-long-secret"]'
            )
        return self

    @property
    def objects_url(self) -> str:
        """The object store's address, the state folder's when none is set."""
        return self.objects.url or (self.state_dir.resolve() / "objects").as_uri()

    @property
    def database_url(self) -> str:
        """The database's address, a file in the state folder when none is set."""
        if self.database.url:
            return self.database.url.get_secret_value()
        return f"sqlite+aiosqlite:///{self.state_dir.resolve() / 'lineside.db'}"


def read_settings() -> Settings:
    """Read the settings of this process; warn of names that are none, once.

    Raises:
        ConfigError: one line per wrong value: its name, and what is allowed.
    """
    file = env_file()
    if file not in {None, ".env"} and not Path(str(file)).is_file():
        raise ConfigError(f"{ENV_FILE}={file}: there is no such file")
    for sentence in unknown_settings():
        if sentence not in _warned:
            _warned.add(sentence)
            logger.warning(sentence, extra={"action": "setting_unknown"})
    try:
        return Settings().check_exposure()
    except ValidationError as error:
        raise ConfigError("; ".join(_one_line(item) for item in error.errors())) from None
    except SettingsError as error:
        raise ConfigError(_unreadable(str(error))) from None


def unknown_settings() -> list[str]:
    """Say of each variable that looks like a setting and is none what was probably meant."""
    in_file = DotEnvSettingsSource(Settings, env_file=env_file()).env_vars
    return unknown_names({**in_file, **os.environ}, _sections())


def _sections() -> Mapping[str, tuple[str, ...] | None]:
    return {
        name: tuple(type(field.default).model_fields)
        if isinstance(field.default, Section)
        else None
        for name, field in Settings.model_fields.items()
    }


def _unreadable(message: str) -> str:
    """Say which settings are lists; the library names only the section, never the value."""
    names = [
        f"LINESIDE_{section}__{name}".upper()
        for section, field in Settings.model_fields.items()
        if f'"{section}"' in message and isinstance(field.default, Section)
        for name, entry in type(field.default).model_fields.items()
        if get_origin(entry.annotation) is tuple
    ]
    if not names:
        return f"{message}; set its fields one by one, see docs/settings.md"
    return f'{" and ".join(names)}: write a list as JSON, such as ["one", "two"]'


def _one_line(item: object) -> str:
    assert isinstance(item, dict)
    name = "LINESIDE_" + "__".join(str(part).upper() for part in item["loc"])
    if item["type"] == "extra_forbidden":
        # Its value is not shown: a credential under a mistyped name is one still.
        meant = nearest(name, names_of(_sections()))
        return f"{name}: there is no such setting;{meant} docs/settings.md lists them"
    shown = "" if any(word in name for word in _CONFIDENTIAL) else f"={item.get('input')}"
    return f"{name}{shown}: {item['msg']}"
