"""What `make prove` calls shown, on a tree of two files."""

import subprocess
from pathlib import Path

import pytest

from tests.prove import Guarantee, Mutation, Verdict, exit_code, prove, read_page, table

SHIPPED = "def double(n):\n    return n * 2\n"
LINE = "return n * 2"
TESTS = """
import pytest
from code_of_it import double


@pytest.fixture
def rig():
    return [0, 1, 2][double(1)]


@pytest.fixture
def service():
    pytest.fail("an S3 server is not available: not on PATH", pytrace=False)


def test_double():
    assert double(2) == 4


def test_type():
    assert isinstance(double(2), int)


def test_rig(rig):
    assert rig == 2


def test_stumbles():
    assert [0, 1, 2][double(1)] == 2


def test_service(service):
    pass


def test_at_home():
    import os
    if os.environ.get("CI") != "true":
        pytest.skip("no service")


def test_wrong():
    assert double(2) == 5
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository of a module and its tests."""
    root = tmp_path / "tree"
    (root / "tests" / "chaos").mkdir(parents=True)
    (root / "code_of_it.py").write_text(SHIPPED)
    (root / "tests" / "test_it.py").write_text(TESTS)
    (root / "tests" / "chaos" / "test_long.py").write_text(
        "from code_of_it import double\n"
        f"LOG = {str(tmp_path / 'long')!r}\n"
        "def test_long():\n    open(LOG, 'a').write('x')\n    assert double(3) == 6\n"
        "def test_other():\n    assert double(1) == 2\n"
    )
    (root / "pyproject.toml").write_text("[tool.pytest.ini_options]\npythonpath = ['.']\n")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def shown(tree: Path, mutant: str, *tests: str) -> Verdict:
    """Prove one guarantee by tests of the tree, each also under the mutation."""
    names = tuple(f"tests/test_it.py::{test}" for test in tests)
    one = Guarantee("G1", "It", names, (Mutation("code_of_it.py", LINE, mutant, names),))
    (verdict,) = prove(tree, [one], lambda _: None)
    return verdict


def states(verdict: Verdict) -> list[str]:
    return [one.state for one in verdict.all()]


def test_a_test_that_passes_and_then_fails_by_its_assertion_proves(tree: Path) -> None:
    verdict = shown(tree, "return n * 3", "test_double", "test_at_home")
    assert states(verdict) == ["green", "STILL GREEN"]
    verdict = shown(tree, "return n * 3", "test_double")
    assert states(verdict) == ["green", "red"]
    assert exit_code([verdict]) == 0
    assert (tree / "code_of_it.py").read_text() == SHIPPED


def test_each_test_that_is_named_must_turn_red_itself(tree: Path) -> None:
    verdict = shown(tree, "return n * 3", "test_double", "test_type")
    named = {
        name.partition("::")[2]: state for name, (state, _) in verdict.mutations[0].tests.items()
    }
    assert named == {"test_double": "red", "test_type": "STILL GREEN"}
    assert states(verdict) == ["green", "STILL GREEN"]
    assert exit_code([verdict]) == 1
    assert "STILL GREEN: tests/test_it.py::test_type" in table([verdict])


@pytest.mark.parametrize(
    ("mutant", "test"),
    [
        ("return (n * 2", "test_double"),  # the module cannot be read
        ("return n * 9", "test_rig"),  # the fixture fails
        ("return n * 9", "test_stumbles"),  # the test ends by an error, not by what it looks for
    ],
)
def test_what_stumbles_is_broken_and_not_red(tree: Path, mutant: str, test: str) -> None:
    verdict = shown(tree, mutant, test)
    assert states(verdict) == ["green", "BROKE"]
    assert exit_code([verdict]) == 1


def test_what_fails_as_shipped_proves_nothing_mutated(tree: Path) -> None:
    verdict = shown(tree, "return n * 3", "test_wrong")
    assert states(verdict) == ["RED", "not run"]
    assert exit_code([verdict]) == 1


def test_a_missing_service_is_told_and_is_no_success(tree: Path) -> None:
    verdict = shown(tree, "return n * 3", "test_double", "test_service")
    assert states(verdict) == ["not run", "not run"]
    assert exit_code([verdict]) == 3
    assert "test_service: an S3 server is not available: not on PATH\n" in table([verdict])


def test_a_test_that_does_not_exist_is_no_success(tree: Path) -> None:
    assert states(shown(tree, "return n * 3", "test_gone")) == ["RED", "not run"]


def test_a_proof_of_several_guarantees_runs_once_as_shipped(tree: Path, tmp_path: Path) -> None:
    file = "tests/chaos/test_long.py"
    wanted = [
        Guarantee("G1", "One", (f"{file}::test_long",), ()),
        Guarantee("G2", "All", (file,), ()),
        Guarantee("G3", "Other", (f"{file}::test_other",), ()),
    ]
    verdicts = prove(tree, wanted, lambda _: None)
    assert [states(one) for one in verdicts] == [["green"]] * 3
    assert (tmp_path / "long").read_text() == "x"


def test_the_page_gives_each_line_the_tests_that_it_turns_red() -> None:
    (one,) = read_page(
        "## G4 Long work\n"
        "- Proof: `tests/a.py`, `tests/b.py::test_b`\n"
        "- Red when `x.py` says `` 2 `` instead of `` 1 ``: `tests/a.py::test_a`\n"
        "- Red when `y.py` says `` b `` instead of `` a ``: `tests/b.py::test_b`\n"
    )
    assert one == Guarantee(
        "G4", "Long work", ("tests/a.py", "tests/b.py::test_b"),
        (
            Mutation("x.py", "1", "2", ("tests/a.py::test_a",)),
            Mutation("y.py", "a", "b", ("tests/b.py::test_b",)),
        ),
    )  # fmt: skip
