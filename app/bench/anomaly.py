"""`lineside bench anomaly`: how well PatchCore tells defects from good parts, per data folder.

Protocol: per seed the normals are split at random, three quarters (200 at most) make the bank,
the rest and every defect are judged. Labels come from folders and names and reach no model.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from adapters.networks import fold_batch_norms
from adapters.pictures import decode_rgb
from adapters.weights import load_weights
from app.data_folder import ProductFolder, read_data_folder
from app.settings import AnomalySettings, Settings
from consumers.anomaly.features import FeatureExtractor, PatchGrid, open_extractor
from consumers.anomaly.fitting import FitPlan, Normals, fit_bank, plan_for
from consumers.anomaly.inspection import inspect
from consumers.anomaly.memory_bank import MemoryBank, Watch, nearest
from consumers.anomaly.scoring import image_score
from consumers.anomaly.verdict import decide_verdict

Json = dict[str, Any]

_MOST_NORMALS = 200
_TAUGHT_SHARE = 0.75
_FEWEST_NORMALS = 8
_TIMED_IMAGES = 20


@dataclass(frozen=True, slots=True)
class _Shelf:
    """Patches of one product's images on disk: a thousand images of them outgrow memory."""

    folder: Path
    shapes: list[tuple[int, int, float]] = field(default_factory=list)

    def add(self, grid: PatchGrid) -> None:
        np.save(self.folder / f"{len(self.shapes)}.npy", grid.patches.numpy())
        self.shapes.append((grid.rows, grid.columns, grid.cell_px))

    def get(self, index: int) -> PatchGrid:
        patches = torch.from_numpy(np.load(self.folder / f"{index}.npy"))
        return PatchGrid(patches, *self.shapes[index])


@dataclass(frozen=True, slots=True)
class _Data:
    """One product: files, good ones first."""

    code: str
    paths: tuple[Path, ...]
    normals: int
    shelf: _Shelf


def bench_anomaly(root: Path, seeds: int = 5, settings: AnomalySettings | None = None) -> Json:
    """Judge every product folder below `root`; returns figures per product.

    Args:
        root: holds `<product>/normal` and `<product>/defect`.
        seeds: how many random splits.
        settings: backbone, weights and coreset ratio; the process's own by default.

    Raises:
        ValueError: `root` holds no product folder.
        ConfigError: no weights.
    """
    chosen = settings or Settings().anomaly
    weights = load_weights(chosen.backbone, chosen.weights)
    extractor = open_extractor(
        chosen.backbone, weights.state_dict, weights.sha256, fold=fold_batch_norms
    )
    plan = plan_for(extractor, chosen.coreset_ratio)
    base = root / "data" if (root / "data").is_dir() else root
    products: Json = {}
    for folder in read_data_folder(base):
        if len(folder.normals) < _FEWEST_NORMALS or not folder.defects:
            products[folder.code] = {"left_out": "needs 8 normal pictures and one defect"}
            continue
        with tempfile.TemporaryDirectory(prefix="lineside-bench-") as scratch:
            data = _read(folder, extractor, Path(scratch))
            products[folder.code] = _bench_product(data, extractor, plan, seeds)
    return {"backbone": chosen.backbone, "seeds": seeds, "products": products}


def _read(folder: ProductFolder, extractor: FeatureExtractor, scratch: Path) -> _Data:
    pictures = (*folder.normals, *folder.defects)
    shelf = _Shelf(scratch)
    for done, picture in enumerate(pictures, start=1):
        shelf.add(extractor.patches([decode_rgb(picture.path.read_bytes())])[0])
        _tell(f"{folder.code}: {done} of {len(pictures)} pictures read")
    return _Data(folder.code, tuple(p.path for p in pictures), len(folder.normals), shelf)


def _bench_product(data: _Data, extractor: FeatureExtractor, plan: FitPlan, seeds: int) -> Json:
    taught = min(_MOST_NORMALS, int(data.normals * _TAUGHT_SHARE))
    runs = []
    for seed in range(seeds):
        order = list(range(data.normals))
        random.Random(f"{data.code}:{seed}").shuffle(order)  # noqa: S311 - a split, no secret
        bank, seconds = _fit(data, order[:taught], plan)
        judged = (*order[taught:], *range(data.normals, len(data.paths)))
        runs.append({**_judge(data, judged, bank, plan), "fit_s": seconds})
        _tell(f"{data.code}: seed {seed + 1} of {seeds}, AUROC {runs[-1]['auroc']:.3f}")
    aurocs = [run["auroc"] for run in runs]
    return {
        "normals": data.normals,
        "taught": taught,
        "defects": len(data.paths) - data.normals,
        "auroc": {"median": median(aurocs), "min": min(aurocs), "max": max(aurocs)},
        "baseline_auroc": _baseline(data),
        "false_reject_rate": fmean(run["false_rejects"] for run in runs),
        "miss_rate": fmean(run["misses"] for run in runs),
        "review_rate": fmean(run["reviews"] for run in runs),
        "fit_s": median(run["fit_s"] for run in runs),
        "ms_per_image": _time_images(data, extractor, bank),
        "runs": runs,
    }


def _fit(data: _Data, indices: Sequence[int], plan: FitPlan) -> tuple[MemoryBank, float]:
    normals = Normals(
        [data.paths[index].name for index in indices], [data.shelf.get(index) for index in indices]
    )
    started = time.perf_counter()
    fitted = fit_bank(data.code, "bench", normals, plan, _unwatched)
    return fitted.bank, time.perf_counter() - started


def _unwatched(_step: str) -> Watch:
    return lambda _done, _total: None


def _judge(data: _Data, indices: Sequence[int], bank: MemoryBank, plan: FitPlan) -> Json:
    """Score held-out images; shares are of the good (false rejects), bad (misses) and all."""
    scores = []
    for index in indices:
        found = nearest(
            data.shelf.get(index).patches * bank.scale, bank.vectors, bank.squared_norms
        )
        scores.append(image_score(found.distances, plan.recipe.top_fraction))
    threshold = bank.calibration.threshold
    verdicts = [decide_verdict(score, threshold).verdict for score in scores]
    bad = [index >= data.normals for index in indices]
    return {
        "auroc": auroc(
            [score for score, is_bad in zip(scores, bad, strict=True) if not is_bad],
            [score for score, is_bad in zip(scores, bad, strict=True) if is_bad],
        ),
        "threshold": threshold,
        "false_rejects": _share(verdicts, [not is_bad for is_bad in bad], "NG"),
        "misses": _share(verdicts, bad, "OK"),
        "reviews": _share(verdicts, [True] * len(bad), "REVIEW"),
    }


def _share(verdicts: Sequence[str], chosen: Sequence[bool], verdict: str) -> float:
    mine = [one == verdict for one, is_mine in zip(verdicts, chosen, strict=True) if is_mine]
    return sum(mine) / len(mine) if mine else 0.0


def auroc(good: Sequence[float], bad: Sequence[float]) -> float:
    """Probability that a bad one scores above a good one; ties count half."""
    ordered = np.sort(np.asarray(good))
    below = np.searchsorted(ordered, bad, "left") + np.searchsorted(ordered, bad, "right")
    return float(below.mean() / (2 * len(ordered)))


def _baseline(data: _Data) -> float:
    """Best AUROC of mean, standard deviation and file size: shows a data set that is too easy."""
    table = np.array([_plain_figures(path) for path in data.paths])
    values = [auroc(column[: data.normals], column[data.normals :]) for column in table.T.tolist()]
    return max(max(value, 1 - value) for value in values)


def _plain_figures(path: Path) -> tuple[float, float, float]:
    data = path.read_bytes()
    pixels: NDArray[np.float32] = decode_rgb(data).astype(np.float32)
    return float(pixels.mean()), float(pixels.std()), float(len(data))


def _time_images(data: _Data, extractor: FeatureExtractor, bank: MemoryBank) -> float:
    """Median time of one image alone: decoding, features, search, map, regions, heatmap."""
    times = []
    for path in data.paths[-_TIMED_IMAGES:]:
        blob = path.read_bytes()
        started = time.perf_counter()
        inspect(extractor, [(decode_rgb(blob), bank)])
        times.append(1000 * (time.perf_counter() - started))
    return median(times)


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def print_anomaly(result: Json) -> None:
    """Print the figures as a table."""
    table = Table(title=f"PatchCore, {result['backbone']}, {result['seeds']} random splits")
    headings = ("product", "normals", "defects", "AUROC", "min-max", "baseline")
    for heading in (*headings, "false rejects", "misses", "review", "fit s", "ms/image"):
        table.add_column(heading, justify="left" if heading == "product" else "right")
    for code, row in result["products"].items():
        if "left_out" in row:
            table.add_row(code, row["left_out"])
            continue
        value = row["auroc"]
        table.add_row(
            code,
            f"{row['taught']} of {row['normals']}",
            str(row["defects"]),
            f"{value['median']:.3f}",
            f"{value['min']:.3f}-{value['max']:.3f}",
            f"{row['baseline_auroc']:.3f}",
            *(f"{row[name]:.1%}" for name in ("false_reject_rate", "miss_rate", "review_rate")),
            f"{row['fit_s']:.1f}",
            f"{row['ms_per_image']:.0f}",
        )
    Console().print(table)
