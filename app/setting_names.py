"""Names that look like settings and are none, with the one that was probably meant."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping

PREFIX = "LINESIDE_"
# Which file is read beside the environment; empty: none.
ENV_FILE = "LINESIDE_ENV_FILE"
# Read elsewhere: by commands, by roles, and by docker-compose.yml.
_OTHERS = (
    ENV_FILE, "LINESIDE_URL", "LINESIDE_TOKEN", "LINESIDE_LOG_LEVEL", "LINESIDE_PARENT_PID",
    "LINESIDE_DEMO", "LINESIDE_S3_ACCESS_KEY", "LINESIDE_S3_SECRET_KEY",
    "LINESIDE_POSTGRES_PASSWORD", "LINESIDE_TGI_IMAGE", "LINESIDE_TGI_MODEL",
)  # fmt: skip
# Kubernetes names every service of a namespace so; one may be called lineside.
_OF_KUBERNETES = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP)(_.*)?)?)")


def env_file() -> str | None:
    """Return the file that is read beside the environment, None for none."""
    return os.environ.get(ENV_FILE, ".env") or None


def names_of(sections: Mapping[str, Iterable[str] | None]) -> tuple[str, ...]:
    """Return variables of settings: one for each field of a section, or for a plain one (None)."""
    return tuple(
        f"{PREFIX}{section}__{name}".upper() if name else f"{PREFIX}{section}".upper()
        for section, fields in sections.items()
        for name in (None, *(fields or ()))
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` did you mean …?`, or nothing where no name is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f" did you mean {near[0]}?" if near else ""


def unknown_names(
    given: Mapping[str, str | None], sections: Mapping[str, Iterable[str] | None]
) -> list[str]:
    """Say of each variable that no section begins with that it is ignored, and what was meant.

    Fields that a section lacks are refused where settings are read. No value is shown.
    """
    known = names_of(sections)
    found = {name.upper(): value or "" for name, value in given.items()}
    return [
        f"{name} is no setting and does nothing;"
        f"{nearest(name, (*known, *_OTHERS))} docs/settings.md lists them"
        for name, value in sorted(found.items())
        if name.startswith(PREFIX)
        and name not in _OTHERS
        and name.split("__")[0] not in known
        and not (_OF_KUBERNETES.fullmatch(name) and _is_of_kubernetes(name, value))
    ]


def _is_of_kubernetes(name: str, value: str) -> bool:
    return not name.endswith("_PORT") or "_SERVICE_" in name or "://" in value
