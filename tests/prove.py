"""`python -m tests.prove G3 …`: shows that a guarantee holds, and that its test can fail.

docs/guarantees.md is the list: per guarantee the tests that prove it and a one-line mutation of
shipped code. On a copy of this tree every proof must pass; with the mutation in that same copy a
test must fail. A copy in which tests cannot run at all shows neither.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree import ElementTree as ET

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


class Ran(NamedTuple):
    """What became of one proof.

    `red` is a test that failed; `broken` is anything else that kept tests from passing, and
    `skipped` says that a service is missing. `detail` names the test, or what is missing.
    """

    outcome: Literal["green", "red", "skipped", "broken"]
    seconds: float
    detail: str = ""


class Shown(NamedTuple):
    """What became of one guarantee; `mutated` is None where it was not come to."""

    guarantee: Guarantee
    shipped: Mapping[str, Ran]
    mutated: Mapping[str, Ran]

    @property
    def holds(self) -> bool:
        """Each proof passed as shipped."""
        return all(ran.outcome == "green" for ran in self.shipped.values())

    @property
    def can_fail(self) -> bool:
        """A test of a proof failed with the mutation."""
        return any(ran.outcome == "red" for ran in self.mutated.values())


RunProof = Callable[[str, Path], Ran]


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


def run_proof(proof: str, folder: Path) -> Ran:
    """Run one proof in a tree.

    Whatever it starts imports that tree too: a program of the environment (`lineside`), or a
    child in another folder, would find the code that is installed there, never the mutation.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as reports:
        report = Path(reports, "report.xml")
        command = [
            sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider",
            f"--junitxml={report}", proof,
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        cases = list(ET.parse(report).iter("testcase")) if report.exists() else []
    return _judge(done.returncode, done.stdout, cases, time.monotonic() - began)


def _judge(code: int, output: str, cases: Sequence[ET.Element], seconds: float) -> Ran:
    for case in cases:
        if case.find("failure") is not None:
            return Ran("red", seconds, case.get("name", ""))
    if code != 0 or not cases:
        return Ran("broken", seconds, output[-3000:])
    for case in cases:
        skipped = case.find("skipped")
        if skipped is not None:
            return Ran("skipped", seconds, skipped.get("message", ""))
    return Ran("green", seconds, f"{len(cases)} tests")


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
        shutil.copytree(dist, to / "console/web/dist", dirs_exist_ok=True)


def mutate(tree: Path, one: Guarantee) -> None:
    """Write the mutation of a guarantee into a tree."""
    path = tree / one.file
    former = path.stat().st_mtime
    path.write_text(path.read_text("utf-8").replace(one.shipped, one.mutant), "utf-8")
    # Python knows a compiled file by size and whole seconds, which may be the same as before.
    os.utime(path, (former + 10, former + 10))


def show(
    one: Guarantee, tree: Path, known: dict[str, Ran], *, run: RunProof, say: Callable[[str], None]
) -> Shown:
    """Run the proofs in a tree as shipped, then mutated, up to the first that turns red.

    Args:
        one: the guarantee.
        tree: a copy of the shipped tree, for this guarantee alone.
        known: proofs that were run as shipped before, which are not run again; grows.
        run: runs one proof.
        say: is told each step.
    """
    for proof in one.proofs:
        if proof not in known:
            say(f"{one.number} as shipped: {proof}")
            known[proof] = run(proof, tree)
            say(f"{one.number} as shipped: {_told(known[proof])}")
    shipped = {proof: known[proof] for proof in one.proofs}
    mutated: dict[str, Ran] = {}
    if all(ran.outcome == "green" for ran in shipped.values()):
        mutate(tree, one)
        # Quick ones first: the first that fails has shown it.
        for proof in sorted(one.proofs, key=lambda proof: shipped[proof].seconds):
            say(f"{one.number} mutated, {one.file} says {one.mutant!r}: {proof}")
            mutated[proof] = run(proof, tree)
            say(f"{one.number} mutated: {_told(mutated[proof])}")
            if mutated[proof].outcome == "red":
                break
    return Shown(one, shipped, mutated)


def _told(ran: Ran) -> str:
    return f"{ran.outcome} after {ran.seconds:.0f} s {ran.detail}"


def as_table(found: Sequence[Shown]) -> str:
    """Return a line per guarantee."""
    lines = [f"{'':<5}{'as shipped':<22}{'mutated':<30}red by"]
    for one in found:
        outcomes = sorted({ran.outcome for ran in one.shipped.values()})
        shipped = f"{' '.join(outcomes)} {sum(r.seconds for r in one.shipped.values()):.0f} s"
        how = "red" if one.can_fail else "STILL GREEN" if one.mutated else "not run"
        mutated = f"{how} {sum(ran.seconds for ran in one.mutated.values()):.0f} s"
        by = next((ran.detail for ran in one.mutated.values() if ran.outcome == "red"), "")
        lines.append(f"{one.guarantee.number:<5}{shipped:<22}{mutated:<30}{by}")
    return "\n".join(lines)


def _as_json(found: Sequence[Shown]) -> str:
    def told(runs: Mapping[str, Ran]) -> dict[str, dict[str, object]]:
        return {proof: ran._asdict() for proof, ran in runs.items()}

    return json.dumps(
        [
            {
                "guarantee": one.guarantee.number,
                "holds": one.holds,
                "can_fail": one.can_fail,
                "shipped": told(one.shipped),
                "mutated": told(one.mutated),
            }
            for one in found
        ]
    )


def main() -> int:
    """Prove the guarantees named, or all; the exit code counts those that were not shown."""
    parser = argparse.ArgumentParser(prog="make prove", description="see docs/guarantees.md")
    parser.add_argument("wanted", nargs="*", metavar="G3")
    parser.add_argument("--json", action="store_true", help="one JSON array as the last line")
    options = parser.parse_args()
    listed = {one.number: one for one in read_page(PAGE.read_text("utf-8"))}
    unknown = [number for number in options.wanted if number not in listed]
    if unknown:
        parser.error(f"no such guarantee: {', '.join(unknown)}; there are {', '.join(listed)}")
    known: dict[str, Ran] = {}
    found = []
    began = time.monotonic()

    def say(step: str) -> None:
        print(f"{time.monotonic() - began:7.0f} s  {step}", file=sys.stderr, flush=True)

    for number in options.wanted or listed:
        with tempfile.TemporaryDirectory() as folder:
            _copy(Path(folder))
            found.append(show(listed[number], Path(folder), known, run=run_proof, say=say))
    print(_as_json(found) if options.json else as_table(found))
    return sum(not (one.holds and one.can_fail) for one in found)


if __name__ == "__main__":
    raise SystemExit(main())
