import re
from pathlib import Path

import pytest

from tests.proof_run import covers, run_tests
from tests.prove import PAGE, ROOT, Guarantee, read_page

GUARANTEES = read_page(PAGE.read_text("utf-8"))


def test_the_page_lists_every_guarantee() -> None:
    wanted = [f"G{number}" for number in (*range(1, 15), 17, 19, 22)]
    assert [one.number for one in GUARANTEES] == wanted


@pytest.mark.parametrize("one", GUARANTEES, ids=lambda one: one.number)
def test_its_proofs_are_tests(one: Guarantee) -> None:
    assert one.proofs
    for proof in (*one.proofs, *(test for red in one.mutations for test in red.tests)):
        file, _, name = proof.partition("::")
        text = (ROOT / file).read_text("utf-8")
        name = name.split("::")[-1].partition("[")[0]
        assert not name or re.search(rf"def {name}\(", text), proof


@pytest.mark.parametrize("one", GUARANTEES, ids=lambda one: one.number)
def test_the_lines_that_turn_it_red_are_shipped(one: Guarantee) -> None:
    for red in one.mutations:
        assert red.shipped in (ROOT / red.file).read_text("utf-8")
        assert red.shipped != red.mutant
        assert not red.file.startswith("tests/")


@pytest.mark.parametrize("one", GUARANTEES, ids=lambda one: one.number)
def test_each_of_its_proofs_is_turned_red_by_a_line(one: Guarantee) -> None:
    named = [test for red in one.mutations for test in red.tests]
    assert [test for test in named if not any(covers(proof, test) for proof in one.proofs)] == []
    assert [proof for proof in one.proofs if not any(covers(proof, test) for test in named)] == []


def test_a_section_without_its_proof_is_refused() -> None:
    with pytest.raises(ValueError, match="G7: names no proof"):
        read_page("## G7 Something\n\nA promise.\n")


def test_a_line_that_names_no_test_is_refused() -> None:
    red = "- Red when `a.py` says `` 2 `` instead of `` 1 ``"
    page = f"## G7 Something\n- Proof: `tests/test_a.py`\n{red}\n"
    with pytest.raises(ValueError, match="G7: names no proof"):
        read_page(page)


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
    run = run_tests(("test_child.py",), tree)
    assert [case.state for case in run.of("test_child.py")] == ["passed"], run.log
