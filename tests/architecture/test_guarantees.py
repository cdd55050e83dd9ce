import re
from pathlib import Path

import pytest

from tests.prove import PAGE, ROOT, Guarantee, read_page, run_tests

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
    assert run_tests(("test_child.py",), tree) == 0
