from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from consumers.embed.index import Case, CaseIndex, Query
from consumers.embed.likeness import MOST_MEMBERS, Embedding, normalised

D = 16


def case(number: int, **changes: str) -> Case:
    fields: dict[str, Any] = {"product": "housing", "defect_type": "scratch"} | changes
    return Case(f"case-{number:03}", image_key=f"cases/{number}", sha256=f"{number:064}", **fields)


def whole(vector: NDArray[np.floating[Any]]) -> Embedding:
    """A picture of a model without cells."""
    return Embedding(normalised(vector.astype(np.float32)), np.empty((0, 0), np.float16))


def vectors(count: int, seed: int = 0) -> list[Embedding]:
    drawn = np.random.default_rng(seed).standard_normal((count, D))
    return [whole(row) for row in drawn]


def filled(count: int = 30, **changes: str) -> tuple[CaseIndex, list[Embedding]]:
    index, drawn = CaseIndex(D, "model-1"), vectors(count)
    index.put([case(number, **changes) for number in range(count)], drawn)
    return index, drawn


def found(index: CaseIndex, query: Query) -> list[str]:
    return [match.case.case_id for match in index.search(query)[0]]


def test_a_search_over_all_products_ranks_as_plain_cosines_do() -> None:
    index, drawn = filled()
    matches, _ = index.search(Query(drawn[3], k=5))
    cosines = np.array([item.vector @ drawn[3].vector for item in drawn])
    assert [match.case.case_id for match in matches] == [
        f"case-{number:03}" for number in np.argsort(-cosines)[:5]
    ]
    assert [m.similarity for m in matches] == pytest.approx(np.sort(cosines)[:-6:-1], abs=1e-4)


def test_within_a_product_the_part_that_all_cases_share_counts_for_nothing() -> None:
    index = CaseIndex(D, "model-1")
    shared = np.zeros(D, np.float32)
    shared[0] = 30
    drawn = [whole(item.vector + shared) for item in vectors(20)]
    index.put([case(number) for number in range(20)], drawn)
    plain = index.search(Query(drawn[0], sha256=f"{0:064}"))[0]
    relative = index.search(Query(drawn[0], "housing", sha256=f"{0:064}"))[0]
    assert plain[-1].similarity > 0.99
    assert relative[0].similarity < 0.9


def test_the_query_itself_is_never_its_own_case() -> None:
    index, drawn = filled()
    index.put([case(3, image_id="a" * 32, part_id="P-1")], drawn[3:4])
    owns: tuple[dict[str, Any], ...] = (
        {"sha256": f"{3:064}"},
        {"image_id": "a" * 32},
        {"part_id": "P-1"},
    )
    for own in owns:
        assert "case-003" not in found(index, Query(drawn[3], "housing", k=30, **own))
    assert found(index, Query(drawn[3], "housing", k=1)) == ["case-003"]


def test_absent_parts_do_not_hide_cases_without_a_part() -> None:
    index, drawn = filled(4)
    assert len(found(index, Query(drawn[0], "housing", part_id=None, image_id=None))) == 4


def test_filters_apply_before_ranking_so_that_k_come_back() -> None:
    index, drawn = filled(30)
    index.put([case(100 + n, defect_type="dent") for n in range(6)], vectors(6, seed=9))
    matches, _ = index.search(Query(drawn[0], "housing", defect_type="dent", k=5))
    assert len(matches) == 5
    assert {match.case.defect_type for match in matches} == {"dent"}


def test_another_product_is_never_found() -> None:
    index, drawn = filled(5)
    index.put([case(50, product="connector")], drawn[0:1])
    assert "case-050" not in found(index, Query(drawn[0], "housing", k=50))
    assert found(index, Query(drawn[0], "unknown")) == []


def test_a_minimum_similarity_may_leave_nothing() -> None:
    index, drawn = filled()
    assert found(index, Query(whole(-drawn[0].vector), "housing", min_similarity=0.99)) == []


def test_equal_similarities_are_ordered_by_case_id_whatever_the_order_of_arrival() -> None:
    same = vectors(1) * 12
    forward, backward = CaseIndex(D, "m"), CaseIndex(D, "m")
    forward.put([case(n) for n in range(12)], same)
    backward.put([case(n) for n in reversed(range(12))], same)
    query = Query(vectors(1)[0], "housing", k=3)
    assert found(forward, query) == ["case-000", "case-001", "case-002"]
    assert forward.search(query) == backward.search(query)


def test_putting_a_case_again_replaces_it() -> None:
    index, drawn = filled(5)
    index.put([case(2, defect_type="dent")], drawn[4:5])
    (match,), _ = index.search(Query(drawn[4], "housing", defect_type="dent"))
    assert match.case.case_id == "case-002"
    assert index.counts() == {"housing": 5}


def test_a_case_that_moves_to_another_product_leaves_the_first() -> None:
    index, drawn = filled(2)
    index.put([case(0, product="connector")], drawn[:1])
    assert index.counts() == {"housing": 1, "connector": 1}


def test_a_removed_case_is_not_found_and_can_come_back() -> None:
    index, drawn = filled(3)
    index.remove("case-001")
    index.remove("never-there")
    assert "case-001" not in found(index, Query(drawn[1], "housing", k=9))
    index.put([case(1)], drawn[1:2])
    assert found(index, Query(drawn[1], "housing", k=1)) == ["case-001"]


def test_an_emptied_product_answers_with_nothing() -> None:
    index, drawn = filled(1)
    index.remove("case-000")
    assert found(index, Query(drawn[0], "housing")) == []
    assert index.counts() == {}


def test_equal_content_has_an_equal_version_and_each_change_another() -> None:
    index, drawn = filled(4)
    before = index.version("housing")
    index.put([case(1, action_taken="replaced the pad")], drawn[1:2])
    assert index.version("housing") != before
    index.put([case(1)], drawn[1:2])
    assert index.version("housing") == before
    assert CaseIndex(D, "model-2").version("housing") != CaseIndex(D, "model-1").version("housing")


def test_searches_beside_writes_always_see_whole_cases() -> None:
    index, drawn = filled(40)
    failures: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            matches, _ = index.search(Query(drawn[0], "housing", k=10))
            if len(matches) != 10 or len({m.case.case_id for m in matches}) != 10:
                failures.append(f"{len(matches)} matches")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for round_number in range(60):
        number = 20 + round_number % 20
        index.remove(f"case-{number:03}")
        index.put([case(number)], drawn[number : number + 1])
    done.set()
    for reader in readers:
        reader.join()
    assert failures == []


CELLS, CHANNELS = 100, 16


def photo(seed: int, *, defect: int | None = None, place: int = 0) -> Embedding:
    """Photos of one part: the same cells but for noise, and six odd ones of a defect's kind."""
    part = np.random.default_rng(99).standard_normal((CELLS, CHANNELS))
    cells = part + np.random.default_rng(seed).standard_normal((CELLS, CHANNELS)) * 0.2
    if defect is not None:
        look = np.random.default_rng(1000 + defect).standard_normal(CHANNELS) * 3
        cells[place : place + 6] += look
    return Embedding(normalised(cells.mean(axis=0).astype(np.float32)), cells.astype(np.float16))


def test_a_small_defect_finds_its_own_kind_wherever_it_lies() -> None:
    index = CaseIndex(CHANNELS, "model-1")
    kinds = [number % 3 for number in range(18)]
    index.put(
        [case(number, defect_type=f"kind-{kind}") for number, kind in enumerate(kinds)],
        [photo(n, defect=kind, place=5 * n) for n, kind in enumerate(kinds)],
    )
    for trial in range(9):
        query = Query(photo(500 + trial, defect=trial % 3, place=3 + 10 * trial), "housing", k=3)
        matches, _ = index.search(query)
        assert {match.case.defect_type for match in matches} == {f"kind-{trial % 3}"}
        good = index.search(Query(photo(900 + trial), "housing", k=1))[0][0]
        assert good.similarity < matches[0].similarity - 0.1


def test_the_first_case_of_a_product_can_be_found() -> None:
    index = CaseIndex(CHANNELS, "model-1")
    index.put([case(0)], [photo(0, defect=1)])
    (match,), _ = index.search(Query(photo(1, defect=1), "housing"))
    assert 0.3 < match.similarity <= 1


def test_answers_do_not_depend_on_the_order_of_arrival_even_beyond_the_reference() -> None:
    count = MOST_MEMBERS + 20
    pictures = [photo(n, defect=n % 4, place=n) for n in range(count)]
    forward, backward = CaseIndex(CHANNELS, "m"), CaseIndex(CHANNELS, "m")
    query = Query(photo(777, defect=2, place=40), "housing", k=7)
    forward.put([case(n) for n in range(count)], pictures)
    for n in reversed(range(count)):
        backward.put([case(n)], [pictures[n]])
        if n % 9 == 0:
            backward.search(query)
    assert forward.search(query) == backward.search(query)
