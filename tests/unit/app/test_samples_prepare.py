from __future__ import annotations

import csv
import errno
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from app.samples import prepare as module
from app.samples.catalog import BEARING_HOUSING, CONNECTOR, PRODUCTS, SampleProduct
from app.samples.contact_sheet import contact_sheet
from app.samples.split import pictures, read_held_out, split

SECTIONS_KO = ("증상", "즉시 조치", "추정 원인", "점검", "시정 조치", "재발 방지")
SECTIONS_EN = (
    "Symptom",
    "Immediate action",
    "Probable causes",
    "Checks",
    "Corrective action",
    "Prevention",
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two drawn products, with few pictures."""
    root = tmp_path_factory.mktemp("samples")
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "NORMALS", 8)
    patch.setattr(module, "DEFECTS_PER_TYPE", 2)
    patch.setattr(module, "PRODUCTS", (BEARING_HOUSING, CONNECTOR))
    told: list[tuple[str, int, int]] = []
    codes = module.prepare(root, progress=lambda *step: told.append(step))
    patch.undo()
    assert codes == (BEARING_HOUSING.code, CONNECTOR.code)
    assert told[-1][1:] == (28, 28)
    return root


def test_a_product_folder_is_laid_out_as_a_plant_has_it(small: Path) -> None:
    folder = small / BEARING_HOUSING.code
    assert len(pictures(folder / "normal")) == 8
    names = [path.name for path in pictures(folder / "defect")]
    assert f"{BEARING_HOUSING.code}_scratch_001.jpg" in names
    assert len(names) == 6
    described = json.loads((folder / "product.json").read_text("utf-8"))
    assert described["display_name"] == BEARING_HOUSING.name
    assert described["policy"]["anomaly"] == "auto"
    assert {item["code"] for item in described["defect_types"]} == {"scratch", "dent", "burr"}


def test_every_defect_file_has_a_decision_and_an_action(small: Path) -> None:
    folder = small / CONNECTOR.code
    with (folder / "cases.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {folder / row["file"] for row in rows} == set(pictures(folder / "defect"))
    assert all(row["decision"] == "ng" and row["action_taken"] for row in rows)
    assert len({row["part_id"] for row in rows}) == len(rows)


def test_what_will_be_judged_is_listed_for_the_import(small: Path) -> None:
    parts = split(small, CONNECTOR.code)
    assert read_held_out(small / CONNECTOR.code) == frozenset(parts.held_out)


def test_a_second_run_changes_nothing_and_a_lost_picture_is_drawn_again(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NORMALS", 8)
    monkeypatch.setattr(module, "DEFECTS_PER_TYPE", 2)
    monkeypatch.setattr(module, "PRODUCTS", (BEARING_HOUSING, CONNECTOR))
    picture = pictures(small / CONNECTOR.code / "normal")[0]
    data, stamp = picture.read_bytes(), picture.stat().st_mtime_ns
    module.prepare(small)
    assert picture.stat().st_mtime_ns == stamp
    picture.unlink()
    module.prepare(small)
    assert picture.read_bytes() == data


def test_drawing_starts_no_process_that_a_kill_could_leave_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NORMALS", 1)
    monkeypatch.setattr(module, "DEFECTS_PER_TYPE", 2)
    monkeypatch.setattr(module, "PRODUCTS", (BEARING_HOUSING,))
    known = set(psutil.Process().children(recursive=True))
    found: list[set[psutil.Process]] = []
    module.prepare(
        tmp_path, progress=lambda *_: found.append(set(psutil.Process().children(recursive=True)))
    )
    assert found
    assert set.union(*found) <= known


def test_a_full_disk_ends_the_drawing_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[object] = []
    is_ending = threading.Event()
    shutdown = ThreadPoolExecutor.shutdown

    def draw(task: object) -> None:
        drawn.append(task)
        if len(drawn) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        is_ending.wait(10)

    def end(pool: ThreadPoolExecutor, *, wait: bool = True, cancel_futures: bool = False) -> None:
        shutdown(pool, wait=False, cancel_futures=cancel_futures)
        is_ending.set()
        shutdown(pool, wait=wait)

    monkeypatch.setattr(module, "PRODUCTS", (BEARING_HOUSING,))
    monkeypatch.setattr(module, "_draw_file", draw)
    monkeypatch.setattr(module, "_MOST_THREADS", 1)
    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", end)
    with pytest.raises(OSError, match="No space"):
        module.prepare(tmp_path)
    assert len(drawn) <= 2  # what failed, and what was under way meanwhile


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.manuals)
@pytest.mark.parametrize(("language", "sections"), [("ko", SECTIONS_KO), ("en", SECTIONS_EN)])
def test_manuals_say_for_each_defect_what_to_do_with_numbers_and_units(
    product: SampleProduct, language: str, sections: tuple[str, ...]
) -> None:
    path = Path(module.__file__).parent / "manuals" / f"{product.manuals}.{language}.md"
    text = path.read_text("utf-8")
    assert f"\nlanguage: {language}\n" in text
    assert re.search(r"^revision: [A-Z]$", text, re.MULTILINE)
    for section in sections:
        found = len(re.findall(rf"^### .*{section}$", text, re.MULTILINE))
        # and once more for a finding whose type nobody can tell, where there are several
        assert found in {len(product.defect_types), len(product.defect_types) + 1}
    for kind in product.defect_types:
        assert (kind.name_ko if language == "ko" else kind.name_en) in text
    assert len(re.findall(r"\d+(?:\.\d+)? ?(?:mm|MPa|°C|V|MΩ|N|%|s|초)", text)) >= 10
    assert len(re.findall(r"\n\n---\n\n", text)) >= 1


def test_a_contact_sheet_shows_every_picture(small: Path) -> None:
    files = pictures(small / CONNECTOR.code / "defect")
    assert contact_sheet(files).startswith(b"\xff\xd8")
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])
