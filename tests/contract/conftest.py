"""A real S3 server on a folder: the Versity gateway."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest

_START_S = 10.0


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    """Url, access key and secret key of a server of its own."""
    program = shutil.which("versitygw")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("versitygw is not installed")
        pytest.skip("versitygw is not installed")
    folder: Path = tmp_path_factory.mktemp("s3")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    access, secret = "lineside", "lineside-secret"
    keys = ["--access", access, "--secret", secret]
    command = [program, "--port", address, *keys, "posix", str(folder)]
    with (folder.parent / "s3.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_until_it_answers(f"http://{address}")
            yield f"http://{address}", access, secret
        finally:
            server.terminate()
            server.wait(10)


def _wait_until_it_answers(url: str) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except HTTPError as error:
            error.close()
            return
        except (URLError, OSError):
            assert time.monotonic() < deadline, "the S3 server does not answer"
            time.sleep(0.05)
        else:
            return
