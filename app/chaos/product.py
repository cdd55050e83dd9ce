"""What a chaos run inspects: a drawn product that is taught over HTTP, and pictures to send."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import httpx

from app.chaos.facts import Judgement
from app.client import Client
from app.data_folder import read_data_folder
from app.importing import import_product, whole_folder
from app.samples import bearing
from app.samples.catalog import BEARING_HOUSING as SAMPLE
from pipeline.errors import ConfigError

PRODUCT = SAMPLE.code
_NORMALS = 24
_CASES = 6
_GOOD, _BAD = 8, 4
_QUIET_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Taught:
    """Pictures to send, and what the active bank says of each: (sha256, bank) → verdict."""

    pictures: Sequence[bytes]
    judgements: dict[tuple[str, str], Judgement]


def draw(seed: int, defect: str | None = None) -> bytes:
    """Return a JPEG of a bearing housing."""
    bgr = cv2.cvtColor(bearing.draw(defect, seed).image, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 80])[1])


def teach(url: str, folder: Path) -> Taught:
    """Set the product up, then let every picture be judged once, one at a time; blocking.

    Raises:
        ConfigError: the quiet system gives no verdict, or no two kinds of verdict.
    """
    write_product(folder)
    with Client(url) as client:
        for found in read_data_folder(folder):
            import_product(client, whole_folder(found), lambda *_: None)
    pictures = [draw(5000 + number) for number in range(_GOOD)]
    pictures += [draw(6000 + number, bearing.DEFECTS[number % 3]) for number in range(_BAD)]
    judgements = {}
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        for number, picture in enumerate(pictures):
            view = _judged(http, picture, number)
            scored = view["scored"]
            key = (view["subject"]["image"]["sha256"], scored["bank_version"])
            judgements[key] = Judgement(scored["verdict"], scored["score"])
    if len({said.verdict for said in judgements.values()}) < 2:
        raise ConfigError(f"the pictures do not differ: {sorted(set(judgements.values()))}")
    return Taught(pictures, judgements)


def write_product(root: Path) -> None:
    """Write the data folder of the product, everything automatic."""
    folder = root / PRODUCT
    for part in ("normal", "defect", "manuals"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(_NORMALS):
        (folder / "normal" / f"{PRODUCT}_normal_{number:03}.jpg").write_bytes(draw(number))
    for number in range(_CASES):
        kind = bearing.DEFECTS[number % len(bearing.DEFECTS)]
        path = folder / "defect" / f"{PRODUCT}_{kind}_{number:03}.jpg"
        path.write_bytes(draw(1000 + number, kind))
    manual = resources.files("app.samples.manuals") / f"{SAMPLE.manuals}.ko.md"
    with resources.as_file(manual) as path:
        shutil.copy(path, folder / "manuals" / "guide.ko.md")
    settings = {
        "display_name": SAMPLE.name,
        "display_name_en": SAMPLE.name_en,
        "policy": {"anomaly": "auto", "report": "auto"},
        "defect_types": [
            {"code": item.code, "name_ko": item.name_ko, "name_en": item.name_en}
            for item in SAMPLE.defect_types
        ],
    }
    (folder / "product.json").write_text(json.dumps(settings, ensure_ascii=False), "utf-8")


def _judged(http: httpx.Client, picture: bytes, number: int) -> dict[str, Any]:
    answer = http.post(
        "/v1/images",
        data={"product": PRODUCT, "part_id": f"quiet-{number}", "station": "quiet"},
        files={"file": ("x.jpg", picture)},
    )
    answer.raise_for_status()
    deadline = time.monotonic() + _QUIET_LIMIT_S
    while True:
        view: dict[str, Any] = http.get(answer.json()["status_url"]).json()
        if view["scored"] and view["scored"]["score"] is not None:
            return view
        if time.monotonic() > deadline:
            raise ConfigError(f"no verdict within {_QUIET_LIMIT_S:g} s while nothing disturbs")
        time.sleep(0.05)
