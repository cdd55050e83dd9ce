"""Dead letters: found, read, and put back; every replay leaves its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from console.api.acts import IdempotencyKey
from console.api.needs import act_id
from console.api.paging import Cursor, Limit, offset_of, page_of
from pipeline.errors import RefusedError
from pipeline.letters import Action, DeadLetters, LetterFilter, ReplayOrder, Replays
from pipeline.ports import Clock

_Text = Annotated[str | None, Field(max_length=300)]
_Name = Annotated[str | None, Field(min_length=1, max_length=100)]
_IdPath = Annotated[str, Path(pattern=r"^[0-9a-f-]{36}$")]
_Id = Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")]
_SOMEBODY = "operator"
_MOST_IDS = 1000
# Words for what a replay leaves out.
_WHY = {
    "resolved": "settled already",
    "returned": "came back as a newer letter; replay that one",
    "queued": "taken by a replay that runs",
    "waiting": "put back and not answered yet; `again: true` puts it back once more",
    "state_topic": (
        "of a topic that holds state, where an old record would undo newer ones; "
        "save the product, bank, case or manual again instead"
    ),
    "unknown": "unknown here",
}


@dataclass(frozen=True, slots=True)
class LetterDesk:
    """What the routes work with; `wake` tells the runner of a new replay."""

    letters: DeadLetters
    replays: Replays
    clock: Clock
    wake: Callable[[], None]


class LetterSpan(BaseModel):
    """Which letters, whatever their state; times need a zone and are those of the burial."""

    model_config = ConfigDict(extra="forbid")

    stage: _Text = None
    reason: _Text = None
    product: _Text = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None


class LetterQuery(LetterSpan):
    """Query parameters of `GET /v1/dead-letters`."""

    state: Literal["open", "replayed", "resolved"] | None = None
    cursor: _Text = None
    limit: Annotated[int, Field(ge=1, le=500)] = 100


class ReplayBody(BaseModel):
    """Body of a replay: `ids` or `filter`; an empty filter means all open letters."""

    model_config = ConfigDict(extra="forbid")

    ids: Annotated[list[_Id], Field(min_length=1, max_length=_MOST_IDS)] | None = None
    filter: LetterSpan | None = None
    rate_per_s: Annotated[float, Field(ge=0.01, le=1000)] = 10.0
    requested_by: _Name = None
    reason: Annotated[str | None, Field(max_length=2000)] = None
    again: bool = False
    dry_run: bool = False


class SteerBody(BaseModel):
    """Body of `stop` and `resume`, which may be left out."""

    by: _Name = None


def build_dead_letters_router(desk: LetterDesk) -> APIRouter:
    """Build the routes of dead letters and of their replays."""
    router = APIRouter(tags=["dead letters"])

    @router.get("/v1/dead-letters", summary="Pages of dead letters, newest first")
    async def list_letters(query: Annotated[LetterQuery, Query()]) -> dict[str, Any]:
        wanted = LetterFilter(**query.model_dump(exclude={"cursor", "limit"}))
        letters, cursor = await desk.letters.list(wanted, cursor=query.cursor, limit=query.limit)
        counts = list(await desk.letters.counts(wanted))
        return {"dead_letters": list(letters), "next_cursor": cursor, "counts": counts}

    @router.post("/v1/dead-letters/replay", status_code=202, summary="Put letters back")
    async def replay(
        body: ReplayBody, response: Response, key: IdempotencyKey = None
    ) -> dict[str, Any]:
        told = await _begin(desk, body, key)
        if body.dry_run:
            response.status_code = 200
        else:
            response.headers["Location"] = told["progress_url"]
        return told

    @router.get("/v1/dead-letters/{letter_id}", summary="All that is known of a dead letter")
    async def get_letter(letter_id: _IdPath) -> dict[str, Any]:
        letter = await desk.letters.get(letter_id)
        if letter is None:
            detail = f"no dead letter {letter_id} is recorded here; see GET /v1/dead-letters"
            raise RefusedError(404, "unknown_dead_letter", detail)
        return letter

    _add_replays(router, desk)
    return router


def _add_replays(router: APIRouter, desk: LetterDesk) -> None:
    @router.get("/v1/dead-letter-replays", summary="Replays, newest first")
    async def list_replays(limit: Limit = 50, cursor: Cursor = None) -> dict[str, Any]:
        offset = offset_of(cursor)
        rows = await desk.replays.list(limit=limit + 1, offset=offset)
        return page_of("replays", rows, offset=offset, limit=limit)

    @router.get("/v1/dead-letter-replays/{replay_id}", summary="How far a replay is")
    async def get_replay(replay_id: _IdPath) -> dict[str, Any]:
        return await _known_replay(desk, replay_id)

    @router.post("/v1/dead-letter-replays/{replay_id}/stop", summary="Put no more letters back")
    async def stop(replay_id: _IdPath, body: SteerBody | None = None) -> dict[str, Any]:
        return await _steer(desk, replay_id, "stop", body)

    @router.post("/v1/dead-letter-replays/{replay_id}/resume", summary="Go on where it stopped")
    async def resume(replay_id: _IdPath, body: SteerBody | None = None) -> dict[str, Any]:
        return await _steer(desk, replay_id, "resume", body)


async def _begin(desk: LetterDesk, body: ReplayBody, key: str | None) -> dict[str, Any]:
    if (body.ids is None) == (body.filter is None):
        detail = "send either `ids`, or `filter` ({} means all open letters)"
        raise RefusedError(422, "nothing_chosen", detail)
    order = ReplayOrder(
        replay_id=str(act_id("dead-letter-replay", key)),
        requested_by=body.requested_by or _SOMEBODY,
        requested_at=desk.clock.now(),
        rate_per_s=body.rate_per_s,
        reason=body.reason,
        letter_ids=None if body.ids is None else tuple(dict.fromkeys(body.ids)),
        letter_filter=LetterFilter(**(body.filter or LetterSpan()).model_dump()),
        again=body.again,
    )
    told = await desk.replays.begin(order, dry_run=body.dry_run)
    if body.dry_run:
        return {**told, "dry_run": True}
    if not told["letters"]:
        raise _nothing(told["left_out"])
    desk.wake()
    url = f"/v1/dead-letter-replays/{order.replay_id}"
    return {"replay_id": order.replay_id, "progress_url": url, **told}


def _nothing(left_out: Mapping[str, int]) -> RefusedError:
    if set(left_out) == {"unknown"}:
        detail = "none of the ids is recorded here; see GET /v1/dead-letters"
        return RefusedError(404, "unknown_dead_letter", detail)
    why = "; ".join(f"{number} {_WHY[reason]}" for reason, number in left_out.items())
    detail = f"no letter can be put back: {why}" if why else "no open letter matches the filter"
    return RefusedError(409, "nothing_to_replay", detail)


async def _known_replay(desk: LetterDesk, replay_id: str) -> dict[str, Any]:
    replay = await desk.replays.get(replay_id)
    if replay is None:
        detail = f"no replay {replay_id} was asked for; see GET /v1/dead-letter-replays"
        raise RefusedError(404, "unknown_replay", detail)
    return replay


async def _steer(
    desk: LetterDesk, replay_id: str, action: Action, body: SteerBody | None
) -> dict[str, Any]:
    replay = await _known_replay(desk, replay_id)
    if replay["state"] == "done":
        detail = "the replay has put all its letters back already; there is nothing left to steer"
        raise RefusedError(409, "replay_done", detail)
    await desk.replays.steer(replay_id, action, (body or SteerBody()).by or _SOMEBODY)
    desk.wake()
    return await _known_replay(desk, replay_id)
