"""The figures of `lineside bench backlog` as tables."""

from __future__ import annotations

from typing import Any

from app.cli.output import table

Json = dict[str, Any]


def print_backlog(result: Json) -> None:
    """Write the figures as a table on stdout, and what does not hold on its own lines."""
    rows = [
        [
            stage, one["results"], one["lost"], one["double"], one["out_of_order"],
            one["throughput"],
        ]
        for stage, one in result["stages"].items()
    ]  # fmt: skip
    table(["stage", "results", "lost", "double", "late", "images/s"], rows)
    memory = [
        [role, one["peak_mb"], _told(one["slope_mb_per_min"]), one["limit_mb_per_min"]]
        for role, one in result["memory"].items()
    ]
    table(["role", "RSS max MB", "second half MB/min", "0 up to"], memory)
    for fault in result["faults"]:
        print(f"✖ {fault}")  # noqa: T201 - a bench prints


def _told(slope: float | None) -> str:
    return "too short to tell" if slope is None else f"{slope:+.2f}"
