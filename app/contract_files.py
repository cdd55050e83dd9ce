"""Writes the generated side of the contract: schemas/json, schemas/asyncapi.yaml."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from schemas.export import asyncapi, json_schemas


def rendered() -> dict[str, str]:
    """Path below schemas/ to file text."""
    files = {
        f"json/{name}": json.dumps(schema, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
        for name, schema in json_schemas().items()
    }
    document = asyncapi()
    files["asyncapi.yaml"] = yaml.safe_dump(
        document, sort_keys=False, allow_unicode=True, width=100
    )
    return files


def differing(folder: Path) -> list[str]:
    """Files below `folder` that are not what the code makes; generated anew by `schemas export`."""
    wanted = rendered()
    found = {
        name
        for name, text in wanted.items()
        if not (folder / name).is_file() or (folder / name).read_text("utf-8") != text
    }
    stray = {f"json/{path.name}" for path in (folder / "json").glob("*.json")} - wanted.keys()
    return sorted(found | stray)


def write(folder: Path) -> list[str]:
    """Write all files, remove stray ones, and return the names that changed."""
    changed = differing(folder)
    wanted = rendered()
    (folder / "json").mkdir(parents=True, exist_ok=True)
    for name in changed:
        path = folder / name
        if name in wanted:
            path.write_text(wanted[name], "utf-8")
        else:
            path.unlink()
    return changed
