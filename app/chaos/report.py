"""The figures of a run, and how people read them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from app.chaos.book import Violation
from app.chaos.facts import Facts
from app.chaos.fault_proxy import FaultProxy
from app.chaos.ledger import summary
from app.chaos.load import Book
from app.chaos.schedule import WORKERS
from app.chaos.strike import Damage
from app.chaos.watch import FeedClient
from app.cli.output import table
from schemas.anomalies import ImageScored
from schemas.dead_letters import DeadLetter
from schemas.images import ImageSkipped
from schemas.reports import ImageExplained

Json = dict[str, Any]

LEAST_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that a run knows of itself; `in_time` counts what was acknowledged by its end."""

    minutes: float
    stated_rate: float
    brokers: int
    seed: int
    parts: Mapping[str, str]
    book: Book
    in_time: int
    damage: Damage
    proxies: Mapping[str, FaultProxy]
    feed: FeedClient
    memory: Mapping[str, Any]
    facts: Facts
    violations: Sequence[Violation]
    troubles: Sequence[str]


def figures(run: Outcome) -> Json:
    """Return one JSON object: figures, violations, and why the run did not pass, if it did not."""
    due = run.stated_rate * run.minutes * 60
    share = run.in_time / due
    failures = _failures(run, share)
    return {
        "passed": not failures,
        "failures": failures,
        "seed": run.seed,
        "minutes": run.minutes,
        "brokers": run.brokers,
        "parts": dict(run.parts),
        "command": command(run.minutes, run.seed, run.brokers, run.stated_rate),
        "uploads": _uploads(run, share),
        "kills": _kills(run),
        "faults": _faults(run.damage),
        "connections": _connections(run.proxies),
        "results": _results(run.facts),
        "dead_letters": _dead_letters(run.facts),
        "feed": {
            "events": run.feed.events,
            "connections": run.feed.connections,
            "gaps": run.feed.gaps,
        },
        "duplicates": _duplicates(run.facts),
        "violations": _violations(run.violations),
        "memory": dict(run.memory),
        "recovery_s": _recovery(run.damage),
    }


def command(minutes: float, seed: int, brokers: int, rate: float) -> str:
    """Return the command line that repeats a run."""
    return (
        f"lineside bench chaos --minutes {minutes:g} --seed {seed} "
        f"--brokers {brokers} --rate {rate:g}"
    )


def _failures(run: Outcome, share: float) -> list[str]:
    failures = [*run.troubles]
    if run.violations:
        failures.append(f"{len(run.violations)} violations")
    if share < LEAST_SHARE:
        failures.append(f"{share:.0%} of the stated rate acknowledged, {LEAST_SHARE:.0%} are asked")
    owed = int(run.minutes)
    kills = run.damage.kills
    failures += [
        f"{role} was killed {kills[role]} times in {owed} minutes"
        for role in (*WORKERS, "broker")
        if kills[role] < owed
    ]
    failures += [f"{role} did not come back" for role in run.damage.never_recovered]
    failures += [f"strange answer: {text}" for text in run.book.strange[:5]]
    failures += [fault for role in run.memory.values() for fault in role["faults"]]
    return failures


def _uploads(run: Outcome, share: float) -> Json:
    waits = sorted(run.book.waits_s)
    return {
        "asked": run.book.asked,
        "acknowledged": run.book.good,
        "acknowledged_in_time": run.in_time,
        "share_of_stated_rate": round(share, 3),
        "poison_acknowledged": len(run.book.sent) - run.book.good,
        "poison_refused": sum(run.book.refused.values()),
        "poison_planted": len(run.book.planted),
        "reviews": len(run.book.acted),
        "retries": dict(run.book.retries),
        "answer_s": {
            "p50": round(statistics.median(waits), 3) if waits else None,
            "max": round(waits[-1], 1) if waits else None,
        },
    }


def _kills(run: Outcome) -> Json:
    return {
        role: {"kills": count, "hit_work": run.damage.kill_hits[role]}
        for role, count in sorted(run.damage.kills.items())
    }


def _faults(damage: Damage) -> Json:
    return {
        name: {"count": count, "hit_work": damage.hits[name]}
        for name, count in sorted(damage.done.items())
    }


def _connections(proxies: Mapping[str, FaultProxy]) -> Json:
    return {
        name: {
            "accepted": proxy.accepted,
            "cut_short": proxy.cut_short,
            "hits": dict(proxy.hits),
        }
        for name, proxy in proxies.items()
    }


def _results(facts: Facts) -> Json:
    events = {entry.event.event_id: entry.event for entry in facts.log if entry.event is not None}
    verdicts = Counter(one.verdict for one in events.values() if isinstance(one, ImageScored))
    reports = [one for one in events.values() if isinstance(one, ImageExplained)]
    return {
        "records": len(facts.log),
        "events": len(events),
        "rows": len(facts.rows),
        "verdicts": dict(verdicts),
        "reports": dict(
            Counter("degraded" if one.report.degraded else one.report.kind for one in reports)
        ),
        "skips": sum(isinstance(one, ImageSkipped) for one in events.values()),
        "cases_indexed": len(facts.indexed or ()),
        "commits_checked": len(facts.commits),
    }


def _dead_letters(facts: Facts) -> Json:
    letters = {
        entry.event.event_id: entry.event
        for entry in facts.log
        if isinstance(entry.event, DeadLetter)
    }
    return dict(Counter(f"{one.stage} {one.reason}" for one in letters.values()))


def _duplicates(facts: Facts) -> Json:
    """Deliveries beyond the first, by topic: harmless, since their ids are equal."""
    counts = Counter(
        (entry.topic, entry.event.event_id) for entry in facts.log if entry.event is not None
    )
    extra: Counter[str] = Counter()
    for (topic, _), count in counts.items():
        extra[topic] += count - 1
    return {topic: count for topic, count in extra.items() if count}


def _violations(violations: Sequence[Violation]) -> Json:
    counted = Counter(one.kind for one in violations)
    named = {
        "lost": counted["lost"],
        "double_rows": counted["double row"],
        "wrong_results": counted["wrong result"],
        "wrong_dead_letters": counted["wrong dead letter"],
        "unequal_duplicates": counted["unequal duplicate"],
        "order": counted["order"],
        "early_commits": counted["early commit"],
        "miscounts": counted["miscount"],
        "feed_gaps": counted["feed gap"],
    }
    return {**named, "examples": summary(violations)}


def _recovery(damage: Damage) -> Json:
    return {
        name: {
            "median": round(statistics.median(times), 1),
            "max": round(max(times), 1),
        }
        for name, times in sorted(damage.recovery_s.items())
    }


# -- for people --------------------------------------------------------------------------------
def print_chaos(result: Json) -> None:
    """Write the figures as tables on stdout."""
    parts = ", ".join(f"{name}: {what}" for name, what in result["parts"].items())
    click.echo(f"{parts}\n")
    _print_uploads(result["uploads"])
    table(
        [
            "role",
            "kills",
            "hit work in flight",
            "back after s (median)",
            "max",
        ],
        [_role_row(result, role) for role in _roles(result)],
    )
    table(
        ["role", "RSS max MB", "between lives MB/min", "0 up to", "within lives MB/min", "0 up to"],
        [_memory_row(role, result["memory"][role]) for role in sorted(result["memory"])],
    )
    table(
        ["fault", "times", "hit work in flight"],
        [
            [name, one["count"], one["hit_work"]]
            for name, one in result["faults"].items()
            if not name.startswith("kill ")
        ],
    )
    table(["what came of it", ""], [*_result_rows(result)])
    table(
        ["promise", "violations"],
        [[n.replace("_", " "), v] for n, v in result["violations"].items() if n != "examples"],
    )
    for kind, examples in result["violations"]["examples"].items():
        click.echo(f"{kind}: {examples[0]}")
        for example in examples[1:]:
            click.echo(f"  {example}")
    verdict = "passed" if result["passed"] else "FAILED: " + "; ".join(result["failures"])
    click.echo(f"\n{verdict}\nseed {result['seed']}; again with: {result['command']}")


def _print_uploads(uploads: Json) -> None:
    table(
        [
            "asked",
            "acknowledged",
            "in time",
            "of stated rate",
            "reviews",
            "poison",
            "answer p50 s",
            "max s",
        ],
        [
            [
                uploads["asked"],
                uploads["acknowledged"],
                uploads["acknowledged_in_time"],
                f"{uploads['share_of_stated_rate']:.0%}",
                uploads["reviews"],
                uploads["poison_acknowledged"]
                + uploads["poison_refused"]
                + uploads["poison_planted"],
                uploads["answer_s"]["p50"],
                uploads["answer_s"]["max"],
            ]
        ],
    )


def _roles(result: Json) -> list[str]:
    return sorted({*result["kills"], *result["recovery_s"]})


def _role_row(result: Json, role: str) -> list[object]:
    kills = result["kills"].get(role, {})
    back = result["recovery_s"].get(role, {})
    return [role, kills.get("kills"), kills.get("hit_work"), back.get("median"), back.get("max")]


def _memory_row(role: str, memory: Json) -> list[object]:
    row: list[object] = [role, memory["max_mb"]]
    for name in ("between_lives", "within_lives"):
        slope = memory[name]
        if slope is None:
            row += ["too short to tell", None]
        else:
            told = f"{slope['mb_min']:+.1f} ± {slope['error_mb_min']:.1f} ({slope['lives']} lives)"
            row += [told, slope["limit_mb_min"]]
    return row


def _result_rows(result: Json) -> list[list[object]]:
    found = result["results"]
    return [
        ["records in the log", found["records"]],
        ["events", found["events"]],
        ["duplicates with equal ids", _counts(result["duplicates"])],
        ["verdicts", _counts(found["verdicts"])],
        ["reports", _counts(found["reports"])],
        ["skips", found["skips"]],
        ["dead letters", _counts(result["dead_letters"])],
        ["rows", found["rows"]],
        ["cases in the index", found["cases_indexed"]],
        ["commits checked", found["commits_checked"]],
        ["feed", _counts(result["feed"])],
        ["uploads sent again after", _counts(result["uploads"]["retries"])],
    ]


def _counts(counts: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "0"
