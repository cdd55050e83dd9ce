"""Sample data on disk, laid out as a plant has it: `data/<product>/normal`, `defect`, `manuals`."""

from __future__ import annotations

import csv
import json
import logging
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from app.samples import elpv
from app.samples.catalog import BEARING_HOUSING, CONNECTOR, PRODUCTS, SOLAR_CELL, SampleProduct
from app.samples.split import defect_type_of, pictures, split, write_held_out

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]

VERSION = 5  # counts up when the drawn pictures or the layout change
NORMALS = 160
DEFECTS_PER_TYPE = 14
_MOST_THREADS = 8
_DRAWN = (BEARING_HOUSING, CONNECTOR)
_STAMP = ".sample.json"
_NEWEST_CASE = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)


class _Drawing(NamedTuple):
    """One file to draw."""

    path: Path
    product: str
    defect: str | None
    seed: int


def prepare(root: Path, *, progress: Progress | None = None) -> tuple[str, ...]:
    """Write all sample products below `root`; what is complete already is left as it is.

    Args:
        root: the data folder; made when absent.
        progress: told what is being made, how many files are done, and of how many.

    Returns:
        codes of the products that are there now.
    """
    tell = progress or (lambda _what, _done, _total: None)
    wanted = [item for item in PRODUCTS if item is not SOLAR_CELL or elpv.is_installed()]
    if SOLAR_CELL not in wanted:
        logger.warning("no solar cells", extra={"action": "sample_skipped", "fix": "elpv-dataset"})
    missing = [item for item in wanted if not _is_complete(root / item.code)]
    for item in missing:
        for name in ("normal", "defect", "manuals"):
            (root / item.code / name).mkdir(parents=True, exist_ok=True)
    if SOLAR_CELL in missing:
        elpv.copy_cells(root / SOLAR_CELL.code)
        tell(SOLAR_CELL.code, elpv.COUNT, elpv.COUNT)
    _draw_all([task for item in _DRAWN if item in missing for task in _tasks(root, item)], tell)
    for item in missing:
        _describe(root, item)
    return tuple(item.code for item in wanted)


def _is_complete(folder: Path) -> bool:
    try:
        stamp = json.loads((folder / _STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    count = len(pictures(folder / "normal")) + len(pictures(folder / "defect"))
    return bool(stamp == {"version": VERSION, "pictures": count})


def _tasks(root: Path, product: SampleProduct) -> Iterator[_Drawing]:
    folder, code = root / product.code, product.code
    first = 10_000 * (1 + _DRAWN.index(product))
    for number in range(1, NORMALS + 1):
        path = folder / "normal" / f"{code}_normal_{number:03}.jpg"
        yield _Drawing(path, code, None, first + number)
    for kind, defect in enumerate(product.defect_types, start=1):
        for number in range(1, DEFECTS_PER_TYPE + 1):
            path = folder / "defect" / f"{code}_{defect.code}_{number:03}.jpg"
            yield _Drawing(path, code, defect.code, first + 1000 * kind + number)


def _draw_all(tasks: list[_Drawing], tell: Progress) -> None:
    if not tasks:
        return
    import cv2  # noqa: PLC0415 - only drawing needs it

    cv2.setNumThreads(1)
    # Threads: processes of a pool outlive a parent that is killed, and print what Ctrl-C does to
    # them. OpenCV and NumPy let go of the interpreter in what takes long.
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        futures = {pool.submit(_draw_file, task): task for task in tasks}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                tell(futures[future].product, done, len(tasks))
        except BaseException:  # a full disk: the rest would fail alike, one after the other
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _draw_file(task: _Drawing) -> None:
    import cv2  # noqa: PLC0415 - as above

    from app.samples import bearing, connector  # noqa: PLC0415 - as above

    draw = bearing.draw if task.product == BEARING_HOUSING.code else connector.draw
    photo = draw(task.defect, task.seed)
    # the size of a file must not tell good parts from bad
    quality = random.Random(task.seed).randint(84, 95)  # noqa: S311 - no secret
    bgr = cv2.cvtColor(photo.image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    task.path.write_bytes(data.tobytes())


def _describe(root: Path, product: SampleProduct) -> None:
    """Write what stands beside the pictures: product, past cases, manuals, held-out list, stamp."""
    folder = root / product.code
    _write_product(folder, product)
    _write_cases(folder, product)
    for language in ("ko", "en"):
        name = f"{product.manuals}.{language}.md"
        text = resources.files("app.samples").joinpath("manuals", name).read_text("utf-8")
        (folder / "manuals" / name).write_text(text, encoding="utf-8")
    write_held_out(folder, split(root, product.code).held_out)
    count = len(pictures(folder / "normal")) + len(pictures(folder / "defect"))
    stamp = json.dumps({"version": VERSION, "pictures": count})
    (folder / _STAMP).write_text(stamp, encoding="utf-8")


def _write_product(folder: Path, product: SampleProduct) -> None:
    record = {
        "code": product.code,
        "display_name": product.name,
        "display_name_en": product.name_en,
        "language": "ko",
        "policy": {"anomaly": "auto", "report": "auto"},
        "defect_types": [
            {"code": item.code, "name_ko": item.name_ko, "name_en": item.name_en}
            for item in product.defect_types
        ],
    }
    text = json.dumps(record, ensure_ascii=False, indent=2)
    (folder / "product.json").write_text(text + "\n", encoding="utf-8")


def _write_cases(folder: Path, product: SampleProduct) -> None:
    """What was decided and done about every defect file; `import` takes those it may."""
    chance = random.Random(product.code)  # noqa: S311 - no secret
    with (folder / "cases.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "defect_type", "decision", "decided_at", "part_id", "action_taken"))
        for path in pictures(folder / "defect"):
            kind = defect_type_of(path.name, product.code)
            if kind is None:
                continue
            age = timedelta(days=chance.randrange(2, 340), minutes=chance.randrange(900))
            part = f"{product.manuals[:2].upper()}-{chance.randrange(10**6):06}"
            action = chance.choice(product.defect_type(kind).actions)
            decided = (_NEWEST_CASE - age).isoformat()
            table.writerow((f"defect/{path.name}", kind, "ng", decided, part, action))
