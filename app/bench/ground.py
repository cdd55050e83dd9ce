"""What a bench's roles are started with: settings of its own, whatever its caller's are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from app.setting_names import ENV_FILE, PREFIX
from app.settings import read_settings
from pipeline.errors import ConfigError

# What is measured is chosen with these: which networks, from which files.
_MEASURED = ("embed", "anomaly")


@contextmanager
def own_settings() -> Iterator[None]:
    """Leave nothing of the plant's settings to what is started within, but folder and networks.

    Without this a bench's roles would watch the plant's folder, ask its language model, or want
    its tokens.

    Raises:
        ConfigError: the settings name the plant's own log, store or tables; names them.
    """
    settings = read_settings()
    places = {
        "LINESIDE_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "LINESIDE_OBJECTS__URL": settings.objects.url,
        "LINESIDE_DATABASE__URL": settings.database.url,
    }
    named = [name for name, place in places.items() if place]
    if named:
        raise ConfigError(
            "this bench starts a system of its own and must not touch another one; run it "
            f"without {', '.join(named)}, here and in .env"
        )
    networks = {
        f"{PREFIX}{section}__{name}".upper(): str(value)
        for section in _MEASURED
        for name, value in getattr(settings, section).model_dump().items()
        if value is not None
    }
    own = {**networks, "LINESIDE_STATE_DIR": str(settings.state_dir), ENV_FILE: ""}
    former = {name: text for name, text in os.environ.items() if name.upper().startswith(PREFIX)}
    for name in former:
        del os.environ[name]
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)
        os.environ.update(former)
