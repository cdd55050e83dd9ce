"""The demo's summary (interfaces.md section 5), and the same as a table for people."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.demo.publishing import Sent

Json = dict[str, Any]


def auroc(good: Sequence[float], bad: Sequence[float]) -> float | None:
    """Probability that a defect scores above a good part, ties count half; None without both."""
    if not good or not bad:
        return None
    wins = sum((b > g) + 0.5 * (b == g) for b in bad for g in good)
    return wins / (len(good) * len(bad))


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summarise(
    items: Sequence[Sent],
    *,
    baselines: Mapping[str, float | None],
    taught: Mapping[str, tuple[int, int]],
    meta: Json,
) -> Json:
    """Count what became of the published images.

    Args:
        items: everything that was sent.
        baselines: per product, the AUROC of the best trivial score.
        taught: per product, how many normals and cases were imported.
        meta: `broker`, `url`, `seconds`.
    """
    accepted = [item for item in items if item.image_id]
    views = [item.view for item in accepted if item.view]
    scored = [view["scored"] for view in views if view["scored"]]
    explained = [view["explained"] for view in views if view["explained"]]
    latencies = [item.latency_ms for item in accepted if item.latency_ms is not None]
    return {
        **meta,
        "images": {
            "published": len(items),
            "accepted": len(accepted),
            "with_verdict": sum(event["verdict"] != "ERROR" for event in scored),
            "errors": sum(event["verdict"] == "ERROR" for event in scored),
            "dead_lettered": sum(bool(view["dead_letters"]) for view in views),
            "refused": sum(item.refused is not None for item in items),
            "lost": sum(not item.is_complete for item in accepted),
        },
        "products": {
            name: _product([i for i in accepted if i.product == name], baselines, taught)
            for name in dict.fromkeys(item.product for item in items)
        },
        "search": _search(accepted),
        "reports": {
            "made": sum(not event["refused"] for event in explained),
            "refused": sum(bool(event["refused"]) for event in explained),
            "extractive": sum(event["report"]["kind"] == "extractive" for event in explained),
        },
        "latency_ms": {
            "p50": _rounded(statistics.median(latencies) if latencies else None, 1),
            "p95": _rounded(percentile(latencies, 0.95), 1),
        },
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _verdict(item: Sent) -> str | None:
    scored = (item.view or {}).get("scored")
    return scored["verdict"] if scored else None


def _scores(items: Sequence[Sent], *, defects: bool) -> list[float]:
    events = [item.view["scored"] for item in items if item.view and item.is_defect == defects]
    return [event["score"] for event in events if event and event["score"] is not None]


def _product(
    items: Sequence[Sent],
    baselines: Mapping[str, float | None],
    taught: Mapping[str, tuple[int, int]],
) -> Json:
    name = items[0].product if items else ""
    value = auroc(_scores(items, defects=False), _scores(items, defects=True))
    return {
        "normals": sum(not item.is_defect for item in items),
        "defects": sum(item.is_defect for item in items),
        "bank_normals": taught.get(name, (0, 0))[0],
        "cases": taught.get(name, (0, 0))[1],
        "auroc": _rounded(value, 4),
        "baseline_auroc": _rounded(baselines.get(name), 4),
        "false_rejects": sum(_verdict(i) == "NG" and not i.is_defect for i in items),
        "misses": sum(_verdict(i) == "OK" and i.is_defect for i in items),
        "reviews": sum(_verdict(i) == "REVIEW" for i in items),
    }


def _search(items: Sequence[Sent]) -> Json:
    """Share of defects whose type is that of the first, or one of the first five, neighbours."""
    asked = [item for item in items if item.is_defect and item.label and item.view]
    found = []
    for item in asked:
        embedded = (item.view or {}).get("embedded") or {"neighbours": []}
        found.append([case["defect_type"] for case in embedded["neighbours"]])
    if not asked:
        return {"hit_at_1": None, "hit_at_5": None}
    pairs = list(zip(asked, found, strict=True))
    return {
        "hit_at_1": round(sum(item.label in types[:1] for item, types in pairs) / len(pairs), 3),
        "hit_at_5": round(sum(item.label in types[:5] for item, types in pairs) / len(pairs), 3),
    }


def wrong_verdicts(items: Sequence[Sent]) -> list[tuple[Sent, str]]:
    """Good parts called NG and defects called OK, with what was said of them."""
    wrong = []
    for item in items:
        verdict = _verdict(item)
        if (verdict == "NG" and not item.is_defect) or (verdict == "OK" and item.is_defect):
            wrong.append((item, verdict))
    return wrong


def refusals(items: Sequence[Sent]) -> list[tuple[str, int]]:
    """Why uploads were refused, as the server said it, and how often, the most frequent first."""
    return Counter(
        _reason(item.refused) for item in items if item.refused is not None
    ).most_common()


def _reason(answer: str) -> str:
    """Take the detail out of a problem document; anything else is told as it came."""
    try:
        return str(json.loads(answer)["detail"])
    except (ValueError, KeyError, TypeError):
        return answer[:200]


def _shown(value: object) -> str:
    return "-" if value is None else str(value)


def print_summary(summary: Json, items: Sequence[Sent]) -> None:
    """Write the summary as tables on stdout."""
    console = Console()
    images = summary["images"]
    console.print()
    console.print(
        f"[bold]{images['published']}[/] images in {summary['seconds']:.0f} s on "
        f"{summary['broker']}: {images['accepted']} accepted, {images['with_verdict']} judged, "
        f"{images['errors']} errors, {images['dead_lettered']} dead letters, "
        f"{images['refused']} refused, [bold]{images['lost']} lost[/]"
    )
    for reason, count in refusals(items):
        console.print(f"  [yellow]{count} refused:[/] {escape(reason)}", soft_wrap=True)
    drawn = Table(box=None, pad_edge=False, header_style="dim")
    for heading in (
        "product",
        "good",
        "defect",
        "AUROC",
        "baseline",
        "false NG",
        "missed",
        "review",
    ):
        drawn.add_column(heading, justify="left" if heading == "product" else "right")
    for name, row in summary["products"].items():
        fields = ("normals", "defects", "auroc", "baseline_auroc", "false_rejects", "misses")
        drawn.add_row(name, *(_shown(row[field]) for field in (*fields, "reviews")))
    console.print(drawn)
    search, reports, latency = summary["search"], summary["reports"], summary["latency_ms"]
    console.print(
        f"similar cases: right type first {_shown(search['hit_at_1'])}, among five "
        f"{_shown(search['hit_at_5'])} · reports: {reports['made']} made "
        f"({reports['extractive']} excerpts), {reports['refused']} refused · "
        f"upload to verdict: p50 {_shown(latency['p50'])} ms, p95 {_shown(latency['p95'])} ms"
    )
    wrong = wrong_verdicts(items)
    if wrong:
        console.print("[dim]wrong verdicts:[/]")
    for item, verdict in wrong:
        truth = item.label or "defect" if item.is_defect else "good"
        console.print(
            f"  {verdict:6} but {truth}: {summary['url']}/i/{item.image_id}", soft_wrap=True
        )
    console.print(f"page: [bold]{summary['url']}/[/]")
