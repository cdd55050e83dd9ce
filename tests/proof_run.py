"""Runs tests of a tree in a process of their own and reads what each of them showed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

# What a test says that looked and found a promise broken (`pytest.raises` lets an error of the
# pipeline pass that is another one than it waits for), as opposed to one that stumbled.
_ASSERTED = re.compile(r"assert |AssertionError|Failed: |pipeline\.errors\.")
_MISSING = re.compile(
    r"""(?:failed on setup with ")?(?:Failed: )?([^"]+ is not available: [^"]+)"""
)
_TELL_EVERY_S = 20.0
_LIMIT_S = 1200.0
_LOG_LINES = 40
Tell = Callable[[str], None]


def covers(proof: str, test: str) -> bool:
    """Whether a file or a test includes a test, or one of its parameters."""
    return test == proof or test.startswith((proof + "::", proof + "["))


class Case(NamedTuple):
    """How one test went: passed, failed (by an assertion), broke or missing (a service)."""

    state: str
    reason: str = ""
    seconds: float = 0.0


class Run(NamedTuple):
    """What pytest reported, by `file::test`, and the end of what it printed."""

    cases: dict[str, Case]
    seconds: float
    log: str

    def of(self, proof: str) -> list[Case]:
        """How the tests of a proof went; it broke if there are none."""
        found = [case for name, case in self.cases.items() if covers(proof, name)]
        return found or [Case("broke", "it did not run")]


# Of what a test reports in its phases: a failed assertion, then why there can be none.
RANK = ("failed", "missing", "broke", "passed")


def read_report(path: Path) -> dict[str, Case]:
    """Read the file of `--junit-xml`; empty where pytest ended before it wrote one."""
    cases: dict[str, Case] = {}
    if not path.is_file():
        return cases
    for element in ET.parse(path).iter("testcase"):
        name = f"{element.get('file')}::{element.get('name')}"
        seconds = float(element.get("time", "0"))
        seen = [cases.get(name, Case("passed")), Case("passed")]
        seen += [_case(child) for child in element if child.tag in {"failure", "error", "skipped"}]
        worst = min(seen, key=lambda case: RANK.index(case.state))
        cases[name] = worst._replace(seconds=seen[0].seconds + seconds)
    return cases


def _case(element: ET.Element) -> Case:
    said = " ".join((element.get("message") or "").split())
    if said == "collection failure":
        return Case("broke", (element.text or said).splitlines()[-1])
    if missing := _MISSING.match(said):
        return Case("missing", missing[1])
    if element.tag == "skipped":
        return Case("missing", f"skipped: {said}")
    asserted = element.tag == "failure" and _ASSERTED.match(said)
    return Case("failed" if asserted else "broke", said[:300])


def run_tests(tests: Iterable[str], folder: Path, tell: Tell = print) -> Run:
    """Run tests of a tree, every one of them also when others fail.

    Whatever they start imports that tree too: a program of the environment (`lineside`), or a
    child in another folder, would find the code that is installed there, never the mutation.
    A missing service fails them, as in CI.
    """
    environment = os.environ | {"PYTHONPATH": str(folder), "CI": "true"}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        report, log = Path(place, "report.xml"), Path(place, "log")
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
            "-o", "junit_family=xunit1", f"--junit-xml={report}", *tests,
        ]  # fmt: skip
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=out, stderr=out, start_new_session=True
            )
            try:
                _wait(process, began, tell)
            finally:
                _stop(process)
        lines = log.read_text("utf-8", "replace").splitlines()[-_LOG_LINES:]
        if not report.is_file():
            lines.append(f"pytest ended with {process.returncode} and reported nothing")
        return Run(read_report(report), time.monotonic() - began, "\n".join(lines))


def _wait(process: subprocess.Popen[bytes], began: float, tell: Tell) -> None:
    while (gone := time.monotonic() - began) < _LIMIT_S:
        try:
            process.wait(_TELL_EVERY_S)
        except subprocess.TimeoutExpired:
            tell(f"   running for {gone + _TELL_EVERY_S:.0f} s")
        else:
            return
    tell(f"   stopped: longer than {_LIMIT_S:.0f} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End pytest and what it started, politely at first; it may have ended."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
