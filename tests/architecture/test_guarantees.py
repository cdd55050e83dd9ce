import re
from pathlib import Path

import pytest

from tests.prove import PAGE, ROOT, Guarantee, Ran, as_table, read_page, run_proof, show

GUARANTEES = read_page(PAGE.read_text("utf-8"))


def test_the_page_lists_every_guarantee() -> None:
    wanted = [f"G{number}" for number in (*range(1, 15), 17, 19, 22)]
    assert [one.number for one in GUARANTEES] == wanted


@pytest.mark.parametrize("one", GUARANTEES, ids=lambda one: one.number)
def test_its_proofs_are_tests(one: Guarantee) -> None:
    assert one.proofs
    for proof in one.proofs:
        file, _, name = proof.partition("::")
        text = (ROOT / file).read_text("utf-8")
        name = name.split("::")[-1].partition("[")[0]
        assert not name or re.search(rf"def {name}\(", text), proof


@pytest.mark.parametrize("one", GUARANTEES, ids=lambda one: one.number)
def test_the_line_that_turns_it_red_is_shipped(one: Guarantee) -> None:
    assert one.shipped in (ROOT / one.file).read_text("utf-8")
    assert one.shipped != one.mutant
    assert not one.file.startswith("tests/")


def test_a_section_without_its_proof_is_refused() -> None:
    with pytest.raises(ValueError, match="G7: names no proof"):
        read_page("## G7 Something\n\nA promise.\n")


def test_what_a_proof_starts_in_another_folder_imports_the_same_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "app").mkdir(parents=True)
    (tree / "app" / "__init__.py").write_text("")
    (tree / "test_child.py").write_text(
        "import subprocess, sys\n"
        "def test_child():\n"
        "    code = 'import app; print(app.__file__)'\n"
        "    found = subprocess.check_output([sys.executable, '-c', code], cwd='/', text=True)\n"
        f"    assert found.startswith({str(tree)!r}), found\n"
    )
    assert run_proof("test_child.py", tree).outcome == "green"


OUTCOMES = {
    "green": "def test_it(): pass",
    "red": "def test_it(): assert 1 == 2",
    "skipped": "import pytest\ndef test_it(): pytest.skip('no Kafka')",
    "broken": "import no_such_module\ndef test_it(): pass",
}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_only_a_test_that_failed_is_red_and_only_one_that_ran_is_green(
    outcome: str, tmp_path: Path
) -> None:
    (tmp_path / "test_it.py").write_text(OUTCOMES[outcome])
    assert run_proof("test_it.py", tmp_path).outcome == outcome


def test_a_fixture_that_fails_shows_nothing(tmp_path: Path) -> None:
    text = "import pytest\n@pytest.fixture\ndef rig(): raise OSError\ndef test_it(rig): pass"
    (tmp_path / "test_it.py").write_text(text)
    assert run_proof("test_it.py", tmp_path).outcome == "broken"


def test_a_guarantee_is_shown_by_the_copy_with_and_without_its_mutation(tmp_path: Path) -> None:
    (tmp_path / "shipped.py").write_text("LIMIT = 3\n")
    proof = "import shipped\ndef test_limit(): assert shipped.LIMIT == 3\n"
    (tmp_path / "test_quick.py").write_text(proof)
    (tmp_path / "test_other.py").write_text("def test_other(): pass\n")
    one = Guarantee("G0", "limits", ("test_other.py", "test_quick.py"), "shipped.py", "= 3", "= 4")
    known: dict[str, Ran] = {}
    steps: list[str] = []
    found = show(one, tmp_path, known, run=run_proof, say=steps.append)
    assert found.holds
    assert found.can_fail
    assert set(known) == set(one.proofs)
    assert "test_limit" in as_table([found])
    # The copy is mutated by now. What is known to be green is not run again, so only the
    # mutation's own run could tell, and a mutation without effect shows nothing.
    same = one._replace(shipped="= 4", mutant="= 3")
    again = show(same, tmp_path, known, run=run_proof, say=steps.append)
    assert again.holds
    assert not again.can_fail
    assert "STILL GREEN" in as_table([again])


def test_a_proof_that_is_not_green_as_shipped_is_not_mutated(tmp_path: Path) -> None:
    (tmp_path / "shipped.py").write_text("LIMIT = 3\n")
    (tmp_path / "test_it.py").write_text(OUTCOMES["skipped"])
    one = Guarantee("G0", "limits", ("test_it.py",), "shipped.py", "= 3", "= 4")
    found = show(one, tmp_path, {}, run=run_proof, say=lambda _: None)
    assert not found.holds
    assert not found.mutated
    assert (tmp_path / "shipped.py").read_text() == "LIMIT = 3\n"
    assert "not run" in as_table([found])
