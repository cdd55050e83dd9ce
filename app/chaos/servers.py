"""A real S3 server and PostgreSQL as child processes that can be killed and started again."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adapters.embedded_node import die_with_parent
from app.up import free_port
from pipeline.errors import ConfigError

_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 10.0
_POLL_S = 0.05


@dataclass(slots=True)
class Server:
    """A program on a loopback port; its data outlives it. Every method blocks."""

    name: str
    port: int
    command: Sequence[str]
    log_path: Path
    # Another user to run as; PostgreSQL refuses to run as root.
    user: str | None = None
    # Exits with 0 when the server answers; a connection alone is enough when empty.
    probe: Sequence[str] = ()
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ConfigError: it does not; the message ends with its last words.
        """
        deadline = time.monotonic() + _START_LIMIT_S
        self._spawn()
        while not self._answers():
            assert self._process is not None
            if self._process.poll() is not None:
                # PostgreSQL waits until the last child of one that was killed has gone.
                time.sleep(4 * _POLL_S)
                self._spawn()
            if time.monotonic() > deadline:
                self.kill()
                words = self.log_path.read_text("utf-8", "replace").split()
                raise ConfigError(f"{self.name} does not start: {' '.join(words)[-400:]}")
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that does not help."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def _spawn(self) -> None:
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                list(self.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=self.user,
                cwd="/",
                start_new_session=True,  # Ctrl-C reaches whoever uses it, which then stops it
                preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )

    def _answers(self) -> bool:
        if self.probe:
            return subprocess.run(list(self.probe), check=False).returncode == 0  # noqa: S603 - our own
        with socket.socket() as knock:
            knock.settimeout(0.5)
            return knock.connect_ex(("127.0.0.1", self.port)) == 0


@dataclass(frozen=True, slots=True)
class S3Access:
    """An S3 server with its credentials."""

    server: Server
    access_key: str
    secret_key: str


def find_s3(folder: Path) -> S3Access | None:
    """Prepare `versitygw` on a folder, None where it is not installed."""
    program = shutil.which("versitygw")
    if program is None:
        return None
    data, sidecar = folder / "data", folder / "sidecar"
    data.mkdir(parents=True)
    # Attributes in files of their own: not every file system of a test machine has xattrs.
    sidecar.mkdir()
    port = free_port()
    access, secret = "lineside-test", "lineside-test-secret"
    command = [program, "--access", access, "--secret", secret, "--port", f"127.0.0.1:{port}"]
    command += ["--quiet", "posix", "--sidecar", str(sidecar), str(data)]
    return S3Access(Server("the S3 server", port, command, folder / "server.log"), access, secret)


def find_postgres(folder: Path) -> Server | None:
    """Prepare PostgreSQL on a folder, None where it is not installed.

    Its own fsync is off: what dies here are processes, not machines.
    """
    programs = postgres_programs()
    if programs is None:
        return None
    is_root = os.geteuid() == 0
    user = "postgres" if is_root else pwd.getpwuid(os.geteuid()).pw_name
    data = folder / "data"
    data.mkdir(parents=True)
    if is_root:
        shutil.chown(data, user)
        for parent in (folder, *folder.parents):
            if parent.owner() == "root" and parent.is_relative_to("/tmp"):  # noqa: S108 - only looked at
                parent.chmod(parent.stat().st_mode | 0o755)
    run_as = user if is_root else None
    initdb = [str(programs / "initdb"), "-D", str(data), "-U", "lineside", "-A", "trust", "-N"]
    subprocess.run(  # noqa: S603 - our own command
        [*initdb, "-E", "UTF8", "--locale=C.UTF-8"],
        user=run_as,
        check=True,
        capture_output=True,
        cwd="/",
    )
    port = free_port()
    command = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1"]
    command += ["-k", "", "-c", "fsync=off"]
    probe = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    return Server("PostgreSQL", port, command, folder / "server.log", run_as, probe)


def postgres_programs() -> Path | None:
    """Find the folder of PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def postgres_url(port: int) -> str:
    """Address of the server's database for SQLAlchemy and asyncpg."""
    return f"postgresql+asyncpg://lineside@127.0.0.1:{port}/postgres"
