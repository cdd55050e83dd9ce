from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from app.chaos.facts import Sent
from app.chaos.fault_proxy import FaultProxy
from app.chaos.ledger import judge
from app.chaos.load import Book
from app.chaos.report import Outcome, figures, print_chaos
from app.chaos.schedule import WORKERS, Fault
from app.chaos.strike import Damage
from app.chaos.watch import FeedClient
from tests.ledger_rig import clean_history


def damage(kills: int = 2) -> Damage:
    done = Damage()
    for role in (*WORKERS, "broker-1", "database", "objects"):
        for _ in range(kills):
            done.note(Fault(1.0, "kill", role), hit=True)
    done.note(Fault(2.0, "connection", "broker-3", 1.0, "cut"), hit=True)
    done.recovery_s["web"] += [2.0, 4.0, 9.0]
    return done


def memory(*faults: str) -> dict[str, Any]:
    """What is told of a role whose lives were too short for one of the slopes."""
    between = {"mb_min": 0.1, "error_mb_min": 0.3, "limit_mb_min": 1.0, "lives": 9, "minutes": 8.0}
    return {"max_mb": 90.0, "between_lives": between, "within_lives": None, "faults": list(faults)}


def outcome(in_time: int = 180) -> Outcome:
    """Two minutes at 1.5 images a second that went well."""
    book = Book(asked=180, retries=Counter({"503": 3}), waits_s=[0.1, 0.2, 4.0])
    book.sent += [Sent(str(number), "0" * 64, "s", number) for number in range(in_time)]
    return Outcome(
        minutes=2.0,
        stated_rate=1.5,
        brokers=3,
        seed=7,
        parts={"broker": "Apache Kafka, 3 nodes"},
        book=book,
        in_time=in_time,
        damage=damage(),
        proxies={"objects": FaultProxy("objects")},
        feed=FeedClient("http://127.0.0.1:1"),
        memory={"web": memory()},
        facts=clean_history().facts(),
        violations=(),
        troubles=(),
    )


def test_a_run_that_kept_every_promise_passes_and_says_how_to_repeat_it() -> None:
    told = figures(outcome())
    assert (told["passed"], told["failures"]) == (True, [])
    assert told["command"] == "lineside bench chaos --minutes 2 --seed 7 --brokers 3 --rate 1.5"
    assert told["uploads"]["share_of_stated_rate"] == 1.0
    assert told["kills"]["broker"] == {"kills": 2, "hit_work": 2}
    assert told["recovery_s"]["web"] == {"median": 4.0, "max": 9.0}
    json.dumps(told)


def test_one_violation_fails_a_run_and_is_shown() -> None:
    history = clean_history()
    history.gaps = 1
    facts = history.facts()
    told = figures(replace(outcome(), facts=facts, violations=judge(facts)))
    assert not told["passed"]
    assert told["violations"]["feed_gaps"] == 1
    assert told["violations"]["examples"]["feed gap"]


@pytest.mark.parametrize(("acknowledged", "passes"), [(144, True), (143, False)])
def test_less_than_four_fifths_of_the_stated_rate_fail_a_run(
    acknowledged: int, *, passes: bool
) -> None:
    assert figures(outcome(acknowledged))["passed"] is passes


def test_a_role_that_was_spared_fails_a_run() -> None:
    told = figures(replace(outcome(), damage=damage(kills=1)))
    assert len(told["failures"]) == len(WORKERS) + 1
    assert "web was killed 1 times in 2 minutes" in told["failures"]


def test_memory_that_grows_fails_a_run() -> None:
    growing = memory("memory of web grows between lives by 5.0 MB a minute")
    told = figures(replace(outcome(), memory={"web": growing}))
    assert told["failures"] == growing["faults"]


def test_an_answer_that_no_interface_names_fails_a_run() -> None:
    run = outcome()
    run.book.strange.append("500: Internal Server Error")
    assert not figures(run)["passed"]


def test_the_tables_show_the_seed_and_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    print_chaos(figures(replace(outcome(), troubles=("not at rest",))))
    shown = capsys.readouterr().out
    assert "FAILED: not at rest" in shown
    assert "--seed 7" in shown
    assert "double rows" in shown
    assert "+0.1 ± 0.3 (9 lives)" in shown
    assert "too short to tell" in shown
