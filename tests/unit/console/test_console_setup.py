from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.errors import DependencyDownError
from schemas.configuration import BankPublished, BankRequested, ManualPublished
from tests.console_rig import ConsoleRig, jpeg, open_console
from tests.story import START, Story, at


@pytest.fixture
async def console() -> AsyncIterator[ConsoleRig]:
    async with open_console(search={"results": [{"case_id": "c1"}]}) as rig:
        yield rig


def bank(version: str) -> BankPublished:
    return BankPublished(
        event_id=Story(version).uploaded.event_id, occurred_at=at(0), product="cap",
        version=version, prefix=f"banks/cap/{version}/", sha256="0" * 64, size_bytes=1,
        model="m", normals=1, threshold=1.0, map_threshold=1.0,
    )  # fmt: skip


async def test_a_product_is_made_and_changed_under_its_revision(console: ConsoleRig) -> None:
    path = "/v1/products/병뚜껑"
    assert (await console.call("PUT", path, 422, json={}))["slug"] == "name_required"
    made = await console.call("PUT", path, 201, json={"display_name": "병뚜껑"})
    assert (made["revision"], made["policy"]["anomaly"]) == (1, "on_request")
    policy = {"anomaly": "auto", "report": "on_request"}
    changed = await console.call("PUT", path, json={"revision": 1, "policy": policy})
    assert (changed["revision"], changed["display_name"]) == (2, "병뚜껑")
    stale = await console.call("PUT", path, 409, json={"revision": 1, "language": "en"})
    assert stale["slug"] == "conflict"
    shown = await console.call("GET", path)
    assert (shown["policy"], shown["bank"], shown["normals"]) == (policy, None, 0)
    listed = await console.call("GET", "/v1/products")
    assert [product["product"] for product in listed["products"]] == ["cap", "병뚜껑"]


async def test_a_product_code_that_is_a_path_is_refused(console: ConsoleRig) -> None:
    problem = await console.call("PUT", "/v1/products/a.b", 422, json={"display_name": "x"})
    assert problem["slug"] == "bad_product_code"
    await console.call("GET", "/v1/products/a%2F..%2Fb/normals", 404)


async def test_only_a_bank_that_exists_becomes_active(console: ConsoleRig) -> None:
    body = {"revision": 1, "active_bank": "v1"}
    assert (await console.call("PUT", "/v1/products/cap", 422, json=body))["slug"] == "unknown_bank"
    await console.inspections.save([bank("v1")])
    await console.call("PUT", "/v1/products/cap", json=body)
    assert (await console.call("GET", "/v1/products/cap"))["bank"]["version"] == "v1"
    banks = await console.call("GET", "/v1/products/cap/banks")
    assert (banks["active_bank"], len(banks["banks"])) == ("v1", 1)
    cleared = await console.call(
        "PUT", "/v1/products/cap", json={"revision": 2, "active_bank": None}
    )
    assert cleared["active_bank"] is None


async def test_a_bad_setting_names_its_field(console: ConsoleRig) -> None:
    body = {"revision": 1, "threshold": -1}
    problem = await console.call("PUT", "/v1/products/cap", 422, json=body)
    assert problem["errors"][0]["field"] == "body.threshold"


async def test_defect_types_are_added_once(console: ConsoleRig) -> None:
    path = "/v1/products/cap/defect-types"
    scratch = {"code": "scratch", "name_ko": "긁힘", "name_en": "Scratch"}
    await console.call("POST", path, 201, json=scratch)
    await console.call("POST", path, 409, json=scratch)
    await console.call("POST", path, 422, json={**scratch, "code": "긁힘"})
    assert [t["code"] for t in (await console.call("GET", path))["defect_types"]] == ["scratch"]


async def test_one_bad_photo_does_not_stop_the_others(console: ConsoleRig) -> None:
    path = "/v1/products/cap/normals"
    told = await console.post_files(
        path,
        ("a.jpg", jpeg(1)), ("b.jpg", jpeg(2)), ("again.jpg", jpeg(1)), ("text.jpg", b"hello"),
        ("empty.jpg", b""), ("cut.jpg", jpeg(3)[:-40]), ("big.jpg", b"\xff" * 1_000_001),
    )  # fmt: skip
    assert (told["stored"], told["duplicates"], told["refused"], told["total"]) == (2, 1, 4, 2)
    assert [file["result"] for file in told["files"][:4]] == [
        "stored", "stored", "duplicate", "refused",
    ]  # fmt: skip
    assert [file["reason"] for file in told["files"][3:]] == [
        "not_an_image", "empty_file", "truncated_image", "file_too_large",
    ]  # fmt: skip
    first = await console.call("GET", f"{path}?limit=1")
    second = await console.call("GET", f"{path}?limit=1&cursor={first['next_cursor']}")
    assert (first["total"], second["next_cursor"]) == (2, None)
    url = second["normals"][0]["url"]
    assert (await console.http.get(url)).headers["content-type"] == "image/jpeg"
    assert (await console.http.get(f"{url}?thumbnail=true")).status_code == 200
    await console.call("DELETE", url, 204)
    assert (await console.call("GET", path))["total"] == 1


async def test_files_need_a_known_product_and_a_form(console: ConsoleRig) -> None:
    unknown = await console.http.post("/v1/products/bolt/normals", files={"file": jpeg()})
    assert unknown.json()["slug"] == "unknown_product"
    bare = await console.call("POST", "/v1/products/cap/normals", 415, json={})
    assert bare["slug"] == "not_multipart"
    empty = await console.call("POST", "/v1/products/cap/normals", 422, files={"x": (None, "y")})
    assert empty["slug"] == "no_file"


async def test_a_case_is_registered_updated_and_taken_back(console: ConsoleRig) -> None:
    path = "/v1/products/cap/cases"
    fields = {"defect_type": "scratch", "decided_at": "2026-05-01T09:00:00"}
    first = await console.post_files(path, ("a.jpg", jpeg()), **fields)
    again = await console.post_files(path, ("b.jpg", jpeg()), **fields)
    changed = await console.post_files(path, ("a.jpg", jpeg()), defect_type="dent")
    assert [r["files"][0]["result"] for r in (first, again, changed)] == [
        "stored", "duplicate", "stored",
    ]  # fmt: skip
    (case,) = (await console.call("GET", path))["cases"]
    assert (case["defect_type"], case["decided_at"]) == ("dent", None)
    assert (await console.http.get(case["image_url"])).content == jpeg()
    assert (await console.http.get(f"{case['image_url']}?thumbnail=true")).status_code == 200
    await console.call("DELETE", f"/v1/cases/{case['case_id']}", 204)
    assert (await console.call("GET", path))["cases"] == []
    bad = await console.http.post(path, files={"file": jpeg()}, data={"decision": "maybe"})
    assert bad.json()["errors"][0]["field"] == "body.decision"


async def test_a_time_without_a_zone_is_the_sites(console: ConsoleRig) -> None:
    path = "/v1/products/cap/cases"
    await console.post_files(path, ("a.jpg", jpeg()), decided_at="2026-05-01T09:00:00")
    (case,) = (await console.call("GET", path))["cases"]
    assert case["decided_at"] == "2026-05-01T00:00:00Z"


async def test_manuals_are_kept_by_file_name_and_read_by_page(console: ConsoleRig) -> None:
    path = "/v1/products/cap/manuals"
    first = await console.post_files(path, ("../지침.md", b"one\ftwo"), title="지침서")
    again = await console.post_files(path, ("지침.md", b"one\ftwo"), title="지침서")
    newer = await console.post_files(path, ("지침.md", b"one\ftwo\fthree"), title="지침서")
    assert [r["files"][0]["result"] for r in (first, again, newer)] == [
        "stored", "duplicate", "stored",
    ]  # fmt: skip
    (shown,) = (await console.call("GET", path))["manuals"]
    assert (shown["file_name"], shown["title"]) == ("지침.md", "지침서")
    file = await console.http.get(shown["file_url"])
    assert file.headers["content-type"].startswith("text/plain")
    page = await console.call("GET", f"/v1/manuals/{shown['manual_id']}/pages/3")
    assert (page["text"], page["pages"]) == ("three", 3)
    await console.call("GET", f"/v1/manuals/{shown['manual_id']}/pages/4", 404)
    await console.call("DELETE", f"/v1/manuals/{shown['manual_id']}", 204)
    await console.call("GET", f"/v1/manuals/{shown['manual_id']}", 404)
    events = [e for e in await console.published() if isinstance(e, ManualPublished)]
    assert [event.removed for event in events] == [False, False, True]


async def test_a_file_that_is_no_manual_is_refused(console: ConsoleRig) -> None:
    told = await console.post_files(
        "/v1/products/cap/manuals",
        ("a.docx", b"PK"), ("b.pdf", b"text"), ("c.txt", b"\x00\x01"), ("d.txt", b""),
        ("e.txt", "\ufeff한글".encode("utf-16-le")), ("f.pdf", b"%PDF-1.7"),
    )  # fmt: skip
    assert [file["reason"] for file in told["files"]] == [
        "unsupported_manual", "not_a_manual", "not_a_manual", "empty_file", None, None,
    ]  # fmt: skip


async def test_a_bank_is_asked_for_once_and_its_job_can_be_watched(console: ConsoleRig) -> None:
    path, key = "/v1/products/cap/banks", {"Idempotency-Key": "b1"}
    assert (await console.call("POST", path, 422))["slug"] == "no_normals"
    await console.post_files("/v1/products/cap/normals", ("a.jpg", jpeg()))
    job = await console.call("POST", path, 202, headers=key)
    again = await console.call("POST", path, 202, headers=key, json={"requested_by": "kim"})
    assert (job["job_id"], job["duplicate"]) == (again["job_id"], not again["duplicate"])
    assert (await console.call("GET", job["job_url"]))["state"] == "queued"
    (event,) = await console.published()
    assert isinstance(event, BankRequested)
    assert event.job_id == job["job_id"]
    progress = b'{"state": "running"}'
    await console.objects.put(f"jobs/{job['job_id']}.json", progress, content_type="x")
    await console.call("POST", path, 202, headers=key)
    assert (await console.call("GET", job["job_url"]))["state"] == "running"
    await console.call("GET", f"/v1/banks/jobs/{'0' * 32}", 404)


async def test_a_search_is_passed_on_and_noted(console: ConsoleRig) -> None:
    body = {"image_id": "0" * 32, "k": 3}
    assert (await console.call("POST", "/v1/search", json=body))["results"][0]["case_id"] == "c1"
    (request,) = console.searches
    assert str(request.url) == "http://embed:5010/v1/search"
    (noted,) = console.tables.searches
    assert (noted["k"], noted["hits"], noted["by"]) == (3, 1, "image")
    await console.post_files("/v1/search", ("a.jpg", jpeg()), product="cap")
    assert b"multipart/form-data" in console.searches[1].headers["content-type"].encode()
    too_big = await console.http.post("/v1/search", files={"file": b"x" * 1_200_000})
    assert too_big.status_code == 413


async def test_a_search_while_the_embed_role_is_away_says_when_to_try_again() -> None:
    async with open_console() as console:
        answer = await console.http.post("/v1/search", json={"image_id": "0" * 32})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.json()["slug"] == "search_unavailable"


async def test_counts_and_facts_of_the_site(console: ConsoleRig) -> None:
    story = Story(lot_id="L1")
    await console.accept(story, story.scored("NG"))
    told = await console.call("GET", "/v1/stats?product=cap&bucket=hour")
    assert (told["all"]["NG"], told["unacknowledged"], len(told["by_time"])) == (1, 1, 1)
    await console.call("GET", "/v1/stats?bucket=week", 422)
    system = await console.call("GET", "/v1/system")
    assert (system["timezone"], system["llm"], system["languages"]) == (
        "Asia/Seoul", False, ["ko", "en"],
    )  # fmt: skip


async def test_a_dependency_that_is_away_is_a_503_and_a_surprise_a_500(console: ConsoleRig) -> None:
    console.objects.fail("list", DependencyDownError("objects", "away"))
    answer = await console.http.get("/v1/products/cap")
    assert (answer.status_code, answer.json()["slug"]) == (503, "objects_unavailable")
    assert answer.headers["retry-after"] == "2"
    console.objects.fail("list", ZeroDivisionError())
    broken = await console.http.get("/v1/products/cap")
    assert (broken.status_code, broken.json()["slug"]) == (500, "internal_error")


async def test_the_line_tells_which_camera_is_silent_and_what_waits(console: ConsoleRig) -> None:
    began_at = datetime.now(UTC) - timedelta(minutes=20)
    first_s = (began_at - START).total_seconds()
    for number in range(61):
        story = Story(f"P-{number}", received_s=first_s + 10 * number, source="cam-7")
        await console.accept(story, *([story.scored("OK")] if number else []))
    told = await console.call("GET", "/v1/line")
    assert (told["late"]["count"], told["late"]["has_more"]) == (1, False)
    assert [(s["source"], s["expected_s"]) for s in told["silent"]] == [("cam-7", 60.0)]
    assert told["silent"][0]["last_at"] < told["now"]
