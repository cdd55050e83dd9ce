from __future__ import annotations

import io
from collections.abc import AsyncIterator

import pytest
from PIL import Image

from schemas.configuration import CaseRegistered
from schemas.embeddings import Neighbour
from schemas.images import InspectionRequested
from schemas.reviews import ReviewRecorded
from tests.console_rig import ConsoleRig, heatmap_png, jpeg, open_console, pictured
from tests.story import Story

RESULT_FIELDS = {
    "image_id", "status", "verdict", "waiting_for", "subject", "embedded", "scored", "explained",
    "skipped", "reviews", "decision", "acknowledged", "dead_letters", "superseded", "requests",
}  # fmt: skip


@pytest.fixture
async def console() -> AsyncIterator[ConsoleRig]:
    async with open_console() as rig:
        yield rig


async def ng(console: ConsoleRig) -> Story:
    story = pictured()
    scored = story.scored("NG").model_copy(update={"heatmap_key": "heatmaps/1.png"})
    await console.accept(story, story.embedded(), scored)
    await console.objects.put("heatmaps/1.png", heatmap_png(), content_type="image/png")
    return story


async def test_an_image_is_shown_with_all_that_is_known(console: ConsoleRig) -> None:
    story = await ng(console)
    view = await console.call("GET", f"/v1/images/{story.image_id}")
    assert set(view) == RESULT_FIELDS
    assert (view["verdict"], view["status"], view["waiting_for"]) == ("NG", "pending", ["llm"])
    problem = await console.call("GET", f"/v1/images/{'0' * 32}", 404)
    assert problem["slug"] == "unknown_image"
    assert (await console.call("GET", "/v1/images/../x", 404))["slug"] == "not_found"


async def test_the_list_is_filtered_and_paged(console: ConsoleRig) -> None:
    for number in range(3):
        story = pictured(f"P-{number}", received_s=number, lot_id="L1")
        await console.accept(story, story.scored("OK"))
    first = await console.call("GET", "/v1/images?lot_id=L1&verdict=OK&limit=2")
    rest = await console.call("GET", f"/v1/images?limit=2&cursor={first['next_cursor']}")
    assert [len(first["images"]), len(rest["images"]), rest["next_cursor"]] == [2, 1, None]
    for wrong in ("verdict=BAD", "limit=9999", "cursor=%00", "since=yesterday"):
        await console.call("GET", f"/v1/images?{wrong}", 422)


async def test_pictures_of_an_image_are_served_and_thumbnails_kept(console: ConsoleRig) -> None:
    story = await ng(console)
    base = f"/v1/images/{story.image_id}"
    for part, kind in (
        ("content", "jpeg"),
        ("thumbnail", "jpeg"),
        ("heatmap", "png"),
        ("overlay", "jpeg"),
    ):
        answer = await console.http.get(f"{base}/{part}")
        assert answer.headers["content-type"] == f"image/{kind}", answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"
        Image.open(io.BytesIO(answer.content)).verify()
        known = {"if-none-match": answer.headers["etag"]}
        assert (await console.http.get(f"{base}/{part}", headers=known)).status_code == 304
    assert f"thumbnails/{story.subject.image.sha256}.jpg" in set(console.objects.keys())


async def test_a_picture_that_cannot_be_shown_says_why(console: ConsoleRig) -> None:
    story = pictured()
    await console.accept(story, story.skipped("anomaly"))
    base = f"/v1/images/{story.image_id}"
    assert (await console.call("GET", f"{base}/heatmap", 404))["slug"] == "not_scored"
    await console.objects.delete(story.subject.image.key)
    assert (await console.call("GET", f"{base}/content", 404))["slug"] == "object_missing"


@pytest.mark.parametrize("other", [b"no picture", jpeg(101)])
async def test_a_picture_whose_bytes_were_altered_is_never_served(
    console: ConsoleRig, other: bytes
) -> None:
    story = await ng(console)
    assert len(jpeg(101)) == len(jpeg())  # a valid picture of equal size is no better
    console.objects.corrupt(story.subject.image.key, other)
    for part in ("content", "thumbnail", "overlay"):
        problem = await console.call("GET", f"/v1/images/{story.image_id}/{part}", 422)
        assert problem["slug"] == "sha256_mismatch"
        assert "altered" in problem["detail"]
    body = {"decision": "ng", "defect_type": "scratch", "register_as_case": True}
    path = f"/v1/images/{story.image_id}/review"
    if len(other) == len(jpeg()):
        assert (await console.call("POST", path, 422, json=body))["slug"] == "sha256_mismatch"
    assert not any(key.startswith(("thumbnails/", "cases/")) for key in console.objects.keys())  # noqa: SIM118 - a method of its own


async def test_what_a_publisher_calls_a_page_is_served_as_bytes(console: ConsoleRig) -> None:
    image = pictured().subject.image.model_copy(update={"content_type": "text/html"})
    story = pictured(image=image)
    await console.accept(story)
    answer = await console.http.get(f"/v1/images/{story.image_id}/content")
    assert answer.headers["content-type"] == "application/octet-stream"


async def test_asking_for_an_inspection_publishes_a_request_once(console: ConsoleRig) -> None:
    story = pictured()
    await console.accept(story)
    path, key = f"/v1/images/{story.image_id}/inspect", {"Idempotency-Key": "k1"}
    first = await console.call("POST", path, 202, headers=key)
    again = await console.call("POST", path, 202, headers=key, json={"requested_by": "kim"})
    assert (first["stage"], first["duplicate"], again["duplicate"]) == ("anomaly", False, True)
    assert first["event_id"] == again["event_id"]
    (_, request) = await console.published()
    assert isinstance(request, InspectionRequested)
    assert not request.explain


async def test_a_report_on_an_unscored_image_scores_it_first(console: ConsoleRig) -> None:
    unscored, scored = pictured("a"), pictured("b")
    await console.accept(unscored)
    await console.accept(scored, scored.scored("NG"))
    for story, stage in ((unscored, "anomaly"), (scored, "llm")):
        told = await console.call("POST", f"/v1/images/{story.image_id}/explain", 202)
        assert told["stage"] == stage
    requests = [e for e in await console.published() if isinstance(e, InspectionRequested)]
    assert all(request.explain for request in requests)


async def test_calling_an_ng_ok_needs_a_name_and_a_reason(console: ConsoleRig) -> None:
    story = await ng(console)
    path = f"/v1/images/{story.image_id}/review"
    for body in ({}, {"reviewer": "Kim"}, {"reviewer": "Kim", "reason": "  "}):
        problem = await console.call("POST", path, 422, json={"decision": "ok", **body})
        assert problem["slug"] == "reason_required"
    told = await console.call(
        "POST", path, 201, json={"decision": "ok", "reviewer": "Kim", "reason": "dust"}
    )
    assert told["machine_verdict"] == "NG"
    view = await console.call("GET", f"/v1/images/{story.image_id}")
    assert (view["verdict"], view["decision"]["decision"]) == ("NG", "ok")


async def test_a_decision_can_be_undone_with_its_case(console: ConsoleRig) -> None:
    story = await ng(console)
    path = f"/v1/images/{story.image_id}/review"
    body = {"decision": "ng", "defect_type": "scratch", "register_as_case": True}
    told = await console.call("POST", path, 201, json=body)
    case = await console.call("GET", f"/v1/cases/{told['case_id']}")
    assert (case["defect_type"], case["image_id"]) == ("scratch", story.image_id)
    assert case["image"]["key"] in set(console.objects.keys())
    assert (await console.http.get(case["image_url"])).content == jpeg()
    await console.call("POST", path, 201, json={"undoes": told["event_id"]})
    await console.call("GET", f"/v1/cases/{told['case_id']}", 404)
    view = await console.call("GET", f"/v1/images/{story.image_id}")
    assert (view["decision"], len(view["reviews"])) == (None, 2)
    cases = [e for e in await console.published() if isinstance(e, CaseRegistered)]
    assert [case.removed for case in cases] == [False, True]


async def test_a_case_called_not_similar_is_remembered_until_taken_back(
    console: ConsoleRig,
) -> None:
    story = Story()
    near = Neighbour(case_id="case-1", image_key="cases/1", product="cap", similarity=0.9)
    embedded = story.embedded().model_copy(update={"neighbours": (near,)})
    await console.accept(story, embedded, story.scored("NG"))
    image, path = f"/v1/images/{story.image_id}", f"/v1/images/{story.image_id}/review"
    unknown = await console.call("POST", path, 422, json={"not_similar": "case-2"})
    assert unknown["slug"] == "unknown_case"
    body = {"not_similar": "case-1", "reviewer": "Kim"}
    told = await console.call("POST", path, 201, json=body)
    view = await console.call("GET", image)
    assert [r["not_similar"] for r in view["reviews"]] == ["case-1"]
    assert (view["decision"], view["acknowledged"]) == (None, None)
    await console.call("POST", path, 201, json={"undoes": told["event_id"]})
    view = await console.call("GET", image)
    assert [(r["undoes"] is None, r["not_similar"]) for r in view["reviews"]] == [
        (True, "case-1"),
        (False, "case-1"),
    ]


async def test_a_review_that_decides_nothing_is_refused(console: ConsoleRig) -> None:
    story = await ng(console)
    path = f"/v1/images/{story.image_id}/review"
    refusals = {
        "nothing_decided": {"reviewer": "Kim"},
        "unknown_review": {"undoes": "6f7c1b0e-6a52-5d7e-9d5b-6c1f5b1f0a11"},
        "undecided_case": {"decision": "hold", "register_as_case": True},
        "invalid_fields": {"decision": "perhaps"},
    }
    for slug, body in refusals.items():
        assert (await console.call("POST", path, 422, json=body))["slug"] == slug


async def test_an_acknowledgement_is_kept_and_published_for_other_tablets(
    console: ConsoleRig,
) -> None:
    story = await ng(console)
    path = f"/v1/images/{story.image_id}/acknowledge"
    open_alarms = "/v1/images?unacknowledged=true"
    assert len((await console.call("GET", open_alarms))["images"]) == 1
    first = await console.call("POST", path, json={"by": "Kim"})
    again = await console.call("POST", path, json={"by": "Lee"})
    assert (first["duplicate"], again["duplicate"]) == (False, True)
    assert first["acknowledged"]["by"] == again["acknowledged"]["by"] == "Kim"
    assert (await console.call("GET", open_alarms))["images"] == []
    (event,) = (e for e in await console.published() if isinstance(e, ReviewRecorded))
    assert str(event.acknowledges) == str(story.scored("NG").event_id)
    view = await console.call("GET", f"/v1/images/{story.image_id}")
    assert view["reviews"] == []
    waiting = pictured("waiting")
    await console.accept(waiting)
    await console.call("POST", f"/v1/images/{waiting.image_id}/acknowledge", 409)
