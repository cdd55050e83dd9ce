"""`python -m tests.prove G3 …`: shows that a guarantee holds, and that its tests can fail.

docs/guarantees.md is the list: per guarantee the tests that prove it, and lines of shipped code
with the change that turns named tests red. Every run is made in a copy of this tree. In the copy
without a change all must pass: what fails there proves nothing in the others. In a copy with a
change each named test must fail by an assertion; one that cannot start is broken, not red.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.proof_run import RANK, Case, Run, Tell, covers, run_tests

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "guarantees.md"
_HEADING = re.compile(r"^## (G\d+) (.+)$", re.MULTILINE)
_PROOF = re.compile(r"^- Proof: (.+)$", re.MULTILINE)
_RED = re.compile(
    r"^- Red when `([^`]+)` says `` (.+?) `` instead of `` (.+?) ``: (.+)$", re.MULTILINE
)
_PROMISED = {"red", "green"}


class Mutation(NamedTuple):
    """In `file`, `shipped` becomes `mutant`; then each of `tests` must fail."""

    file: str
    shipped: str
    mutant: str
    tests: tuple[str, ...]


class Guarantee(NamedTuple):
    """One section of the page."""

    number: str
    title: str
    proofs: tuple[str, ...]
    mutations: tuple[Mutation, ...]


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
        proof, red = _PROOF.search(section), list(_RED.finditer(section))
        if proof is None or not red or len(red) != section.count("\n- Red when"):
            raise ValueError(f"{heading[1]}: names no proof, or no line that turns it red")
        mutations = tuple(Mutation(one[1], one[3], one[2], _quoted(one[4])) for one in red)
        found.append(Guarantee(heading[1], heading[2], _quoted(proof[1]), mutations))
    return found


def _quoted(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", text))


@dataclass
class Shown:
    """What a run showed: green and red are as promised; RED, STILL GREEN and BROKE are not.

    `tests` says the same of each test that was named, with its reason.
    """

    what: str
    state: str = "not run"
    seconds: float = 0.0
    tests: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass
class Verdict:
    """A guarantee as shipped and under each of its mutations."""

    number: str
    title: str
    shipped: Shown
    mutations: list[Shown]

    def all(self) -> list[Shown]:
        """All that was to be shown."""
        return [self.shipped, *self.mutations]


def _as_shipped(cases: list[Case]) -> tuple[str, str]:
    """Green if each test of a proof passed."""
    for case in sorted(cases, key=lambda one: RANK.index(one.state)):
        if case.state != "passed":
            return ("not run" if case.state == "missing" else "RED"), case.reason
    return "green", ""


def _as_mutated(cases: list[Case]) -> tuple[str, str]:
    """Red if a test of a proof failed by an assertion."""
    worst = min(cases, key=lambda one: RANK.index(one.state))
    states = {"failed": "red", "missing": "not run", "broke": "BROKE", "passed": "STILL GREEN"}
    return states[worst.state], worst.reason


def _worst(shown: Shown) -> str:
    order = ("RED", "STILL GREEN", "BROKE", "not run", "red", "green")
    return min((state for state, _ in shown.tests.values()), key=order.index)


def copy_tree(root: Path, to: Path) -> None:
    """Copy what git knows of a tree, or would, and its built pages."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)
    dist = root / "console/web/dist"
    if dist.is_dir():
        shutil.copytree(dist, to / "console/web/dist", dirs_exist_ok=True)


class Prover:
    """Proves guarantees in copies of a tree, each copy as the tree was at the start."""

    def __init__(self, root: Path, place: Path, wanted: list[Guarantee], tell: Tell) -> None:
        """Copy the tree below `place`, an empty folder."""
        self._kept, self._place, self._tell = place / "kept", place, tell
        copy_tree(root, self._kept)
        self._tree = self._copy("shipped")
        self._shipped = Run({}, 0.0, "")
        proofs = {proof for one in wanted for proof in one.proofs}
        # A test of a file that is run anyway is not run twice, nor one of several guarantees.
        self._left = sorted(
            one for one in proofs if not any(covers(other, one) for other in proofs - {one})
        )

    def _copy(self, name: str) -> Path:
        return Path(shutil.copytree(self._kept, self._place / name))

    def prove(self, one: Guarantee, verdict: Verdict) -> None:
        """Fill the verdict of a guarantee in."""
        for batch in self._batches(one):
            self._run_shipped(one.number, batch)
        shown = verdict.shipped
        shown.tests = {proof: _as_shipped(self._shipped.of(proof)) for proof in one.proofs}
        shown.seconds = sum(case.seconds for p in one.proofs for case in self._shipped.of(p))
        shown.state = _worst(shown)
        for mutation, found in zip(one.mutations, verdict.mutations, strict=True):
            self._mutate(one.number, mutation, found)

    def _batches(self, one: Guarantee) -> list[list[str]]:
        """What is to be run now: the short tests of all guarantees at once, then the long ones."""
        own = {proof.partition("::")[0] for proof in one.proofs}
        batches: dict[str, list[str]] = {}
        for proof in self._left:
            path = proof.partition("::")[0]
            is_long = path.startswith("tests/chaos/")
            if not is_long or path in own:
                batches.setdefault(path if is_long else "", []).append(proof)
        done = {proof for batch in batches.values() for proof in batch}
        self._left = [proof for proof in self._left if proof not in done]
        return [batches[path] for path in sorted(batches)]

    def _run_shipped(self, number: str, batch: list[str]) -> None:
        self._tell(f"{number} as shipped: {' '.join(batch)}")
        run = run_tests(batch, self._tree, self._tell)
        self._shipped.cases.update(run.cases)
        if not run.cases or any(case.state != "passed" for case in run.cases.values()):
            self._tell(run.log)

    def _mutate(self, number: str, mutation: Mutation, shown: Shown) -> None:
        control = {test: _as_shipped(self._shipped.of(test)) for test in mutation.tests}
        if any(state != "green" for state, _ in control.values()):
            shown.tests = dict.fromkeys(mutation.tests, ("not run", "not green as shipped"))
            return
        self._tell(f"{number} when {shown.what}: {' '.join(mutation.tests)}")
        tree = self._copy("mutated")
        path = tree / mutation.file
        text = path.read_text("utf-8")
        path.write_text(text.replace(mutation.shipped, mutation.mutant), "utf-8")
        run = run_tests(mutation.tests, tree, self._tell)
        shutil.rmtree(tree)
        shown.tests = {test: _as_mutated(run.of(test)) for test in mutation.tests}
        shown.seconds = run.seconds
        shown.state = _worst(shown)
        for test, (state, reason) in shown.tests.items():
            self._tell(f"   {state}: {test}: {reason}")
        if shown.state != "red":
            self._tell(run.log)


def table(verdicts: list[Verdict]) -> str:
    """Lay the verdicts out in lines: guarantee, what was run, outcome, seconds."""
    lines = []
    for one in verdicts:
        for shown in one.all():
            number = one.number if shown is one.shipped else ""
            lines.append(f"{number:<4} {shown.state:<11} {shown.seconds:>5.0f} s  {shown.what}")
            for test, (state, reason) in shown.tests.items():
                if state not in _PROMISED:
                    lines.append(f"       {state}: {test}: {reason}")
    return "\n".join(lines)


def exit_code(verdicts: list[Verdict]) -> int:
    """0: all as promised; 1: something is not; 3: nothing is against it, but not all was run."""
    states = {shown.state for one in verdicts for shown in one.all()}
    if states <= _PROMISED:
        return 0
    return 3 if states <= _PROMISED | {"not run"} else 1


def prove(root: Path, wanted: list[Guarantee], tell: Tell) -> list[Verdict]:
    """Prove guarantees one after another; what Ctrl-C prevents is not run."""
    verdicts = [
        Verdict(
            one.number, one.title, Shown(one.title),
            [Shown(f"{red.file} says {red.mutant!r}") for red in one.mutations],
        )
        for one in wanted
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as place, contextlib.suppress(KeyboardInterrupt):
        prover = Prover(root, Path(place), wanted, tell)
        for verdict, one in zip(verdicts, wanted, strict=True):
            prover.prove(one, verdict)
    return verdicts


def main(arguments: list[str]) -> int:
    """Prove the guarantees named, or all; see `exit_code`, and 2 for a name that is none."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove")
    parser.add_argument("numbers", nargs="*", metavar="G3")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    listed = {one.number: one for one in read_page(PAGE.read_text("utf-8"))}
    if unknown := [number for number in asked.numbers if number not in listed]:
        parser.error(f"no such guarantee: {', '.join(unknown)}; there are {', '.join(listed)}")
    began = time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - began:>5.0f} s {line}", file=sys.stderr, flush=True)

    verdicts = prove(ROOT, [listed[number] for number in asked.numbers or listed], tell)
    code = exit_code(verdicts)
    if asked.json:
        print(json.dumps([asdict(one) for one in verdicts], indent=2))
        return code
    print(table(verdicts))
    ends = {0: "each is green as shipped, red when mutated", 3: "not all was run"}
    print(ends.get(code, "not as promised"))
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
