"""`python -m tests.prove G3 …`: shows that a guarantee holds, and that its test can fail.

docs/guarantees.md is the list: per guarantee the tests that prove it and a one-line mutation of
shipped code. The tests must pass on this tree and fail on a copy with the mutation.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "guarantees.md"
_HEADING = re.compile(r"^## (G\d+) (.+)$", re.MULTILINE)
_PROOF = re.compile(r"^- Proof: (.+)$", re.MULTILINE)
_RED = re.compile(r"^- Red when `([^`]+)` says `` (.+?) `` instead of `` (.+?) ``", re.MULTILINE)


class Guarantee(NamedTuple):
    """One section of the page. In `file`, `shipped` becomes `mutant`; then a proof must fail."""

    number: str
    title: str
    proofs: tuple[str, ...]
    file: str
    shipped: str
    mutant: str


def read_page(text: str) -> list[Guarantee]:
    """Return the guarantees that a page lists.

    Raises:
        ValueError: a section lacks its proof or its mutation.
    """
    headings = list(_HEADING.finditer(text))
    ends = [one.start() for one in headings[1:]] + [len(text)]
    found = []
    for heading, end in zip(headings, ends, strict=True):
        section = text[heading.end() : end]
        proof, red = _PROOF.search(section), _RED.search(section)
        if proof is None or red is None:
            raise ValueError(f"{heading[1]}: names no proof, or no line that turns it red")
        proofs = tuple(re.findall(r"`([^`]+)`", proof[1]))
        found.append(Guarantee(heading[1], heading[2], proofs, red[1], red[3], red[2]))
    return found


def run_tests(proofs: tuple[str, ...], folder: Path) -> int:
    """Run tests of a tree; returns pytest's exit code.

    Whatever they start imports that tree too: a program of the environment (`lineside`), or a
    child in another folder, would find the code that is installed there, never the mutation.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *proofs]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


def _copy(to: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    dist = ROOT / "console/web/dist"
    if dist.is_dir():
        shutil.copytree(dist, to / "console/web/dist")


def prove(one: Guarantee) -> bool:
    """Run the proofs here and on a mutated copy; returns whether both went as they should."""
    print(f"== {one.number} {one.title}: as shipped", flush=True)
    began = time.monotonic()
    if run_tests(one.proofs, ROOT) != 0:
        return False
    green_s = time.monotonic() - began
    print(f"== {one.number}: {one.file} says {one.mutant!r}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        _copy(copy)
        path = copy / one.file
        path.write_text(path.read_text("utf-8").replace(one.shipped, one.mutant), "utf-8")
        began = time.monotonic()
        # 1 is a failed test; anything else means that none could run.
        is_red = run_tests(one.proofs, copy) == 1
    red_s = time.monotonic() - began
    print(f"== {one.number}: as shipped {green_s:.0f} s, mutated {red_s:.0f} s", flush=True)
    return is_red


def main(wanted: list[str]) -> int:
    """Prove the guarantees named, or all; the exit code counts those that failed."""
    listed = {one.number: one for one in read_page(PAGE.read_text("utf-8"))}
    unknown = [number for number in wanted if number not in listed]
    if unknown:
        print(f"no such guarantee: {', '.join(unknown)}; there are {', '.join(listed)}")
        return 2
    failed = [number for number in wanted or listed if not prove(listed[number])]
    print(
        f"failed: {', '.join(failed)}" if failed else "each is green as shipped, red when mutated"
    )
    return len(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
