"""A plant's data folder into a running Lineside: products, cases, manuals, banks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from app.client import Client, Json
from app.data_folder import LabelledPicture, ProductFolder
from app.samples.split import read_held_out
from pipeline.errors import RefusedError

# step, files or picks done so far, in all
Progress = Callable[[str, int, int], None]

_CASE_FIELDS = ("defect_type", "decision", "decided_at", "action_taken", "part_id")


@dataclass
class ImportResult:
    """What became of one product's folder."""

    product: str
    normals: int = 0
    new_normals: int = 0
    cases: int = 0
    manuals: int = 0
    bank: str | None = None
    refused: list[Json] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What to take from a folder: all of it, or the parts that are not to be judged later."""

    folder: ProductFolder
    normals: Sequence[Path]
    cases: Sequence[LabelledPicture]


def whole_folder(folder: ProductFolder) -> ImportPlan:
    """Plan to take everything but what `held_out.txt` keeps for judging."""
    held_out = read_held_out(folder.path)
    return ImportPlan(
        folder,
        [item.path for item in folder.normals if item.path not in held_out],
        [item for item in folder.defects if item.path not in held_out],
    )


def import_product(client: Client, plan: ImportPlan, on_progress: Progress) -> ImportResult:
    """Bring one product in; running it again adds nothing twice.

    A bank is built and made active at the end: until then the product judges as before.
    """
    folder = plan.folder
    result = ImportResult(folder.code, misfits=[f"{p}: {why}" for p, why in folder.misfits])
    described = folder.settings
    settings = {
        name: described[name]
        for name in ("display_name_en", "policy", "language", "review_band", "threshold")
        if name in described
    }
    client.put_product(
        folder.code, display_name=described.get("display_name", folder.code), **settings
    )
    _add_defect_types(client, plan)
    _send_normals(client, plan, result, on_progress)
    _send_cases(client, plan, result, on_progress)
    _send_manuals(client, folder, result, on_progress)
    if result.normals and not _bank_stands(client, result):
        job = client.build_bank(
            folder.code,
            on_progress=lambda state: on_progress(
                f"bank: {state.get('step') or state['state']}",
                int(state.get("done") or 0),
                int(state.get("total") or 0),
            ),
        )
        result.bank = str(job["version"])
        client.activate_bank(folder.code, result.bank)
    return result


def _bank_stands(client: Client, result: ImportResult) -> bool:
    """Whether the active bank was built from exactly these good photos."""
    if result.new_normals:
        return False
    product = client.get(f"/v1/products/{quote(result.product)}")
    bank = product.get("bank")
    if not bank or bank["normals"] != product["normals"]:
        return False
    result.bank = str(bank["version"])
    return True


def _path(code: str, part: str) -> str:
    return f"/v1/products/{quote(code)}/{part}"


def _add_defect_types(client: Client, plan: ImportPlan) -> None:
    """Add the named types of product.json, and those that only file names know."""
    code = plan.folder.code
    known = client.get(_path(code, "defect-types"))["defect_types"]
    names = {row[key] for row in known for key in ("code", "name_ko", "name_en")}
    listed = list(plan.folder.settings.get("defect_types", ()))
    described = {entry.get(key) for entry in listed for key in ("code", "name_ko", "name_en")}
    for label in sorted({item.label for item in plan.cases if item.label} - described - {None}):
        slug = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or f"type-{len(listed) + 1}"
        listed.append({"code": slug, "name_ko": label, "name_en": label})
    for entry in listed:
        if entry["code"] in names or entry["name_ko"] in names:
            continue
        try:
            client.call("POST", _path(code, "defect-types"), json=entry)
        except RefusedError as error:
            if error.status != 409:  # somebody else added it meanwhile
                raise


def _send_normals(
    client: Client, plan: ImportPlan, result: ImportResult, on_progress: Progress
) -> None:
    done = 0
    total = len(plan.normals)

    def count(sent: int) -> None:
        nonlocal done
        done += sent
        on_progress("good photos", done, total)

    answers = client.send_files(_path(result.product, "normals"), plan.normals, on_progress=count)
    result.refused += [item for item in answers if item["result"] == "refused"]
    result.normals = sum(item["result"] != "refused" for item in answers)
    result.new_normals = sum(item["result"] == "stored" for item in answers)


def _send_cases(
    client: Client, plan: ImportPlan, result: ImportResult, on_progress: Progress
) -> None:
    """Send defects with what is known of each; those that have it in common go together."""
    together: dict[tuple[tuple[str, str], ...], list[Path]] = {}
    for item in plan.cases:
        told = dict(plan.folder.decisions.get(item.path.name, {}))
        fields = {name: told[name] for name in _CASE_FIELDS if name in told}
        fields.setdefault("decision", "ng")
        if item.label and "defect_type" not in fields:
            fields["defect_type"] = item.label
        together.setdefault(tuple(sorted(fields.items())), []).append(item.path)
    done = 0
    for shared, paths in together.items():
        path = _path(result.product, "cases")
        answers = client.send_files(path, paths, fields=dict(shared))
        done += len(paths)
        on_progress("past cases", done, len(plan.cases))
        result.refused += [item for item in answers if item["result"] == "refused"]
        result.cases += sum(item["result"] != "refused" for item in answers)


def _send_manuals(
    client: Client, folder: ProductFolder, result: ImportResult, on_progress: Progress
) -> None:
    if not folder.manuals:
        return
    answers = client.send_files(_path(folder.code, "manuals"), folder.manuals)
    result.refused += [item for item in answers if item["result"] == "refused"]
    result.manuals = sum(item["result"] != "refused" for item in answers)
    on_progress("manuals", len(folder.manuals), len(folder.manuals))
