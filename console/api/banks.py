"""Memory banks: asking for one, watching it grow, listing them."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, Field

from console.api.acts import IdempotencyKey
from console.api.needs import ConsoleNeeds, act_id, known_product
from console.api.normals import count_normals, no_normals
from console.api.paging import Cursor, Limit, offset_of, page_of
from pipeline.errors import PoisonError, RefusedError
from schemas.configuration import BankRequested

JobIdPath = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]


_SOMEBODY = "operator"


class BankBody(BaseModel):
    """Body of the request for a bank, which may be left out."""

    requested_by: Annotated[str, Field(min_length=1, max_length=100)] | None = None


def build_banks_router(needs: ConsoleNeeds) -> APIRouter:
    """Build the routes of memory banks."""
    router = APIRouter(tags=["banks"])
    catalog = needs.catalog

    @router.post("/v1/products/{code}/banks", status_code=202, summary="Build a bank")
    async def request_bank(
        code: str, response: Response, body: BankBody | None = None, key: IdempotencyKey = None
    ) -> dict[str, Any]:
        product = str((await known_product(catalog, code))["product"])
        if await count_normals(needs.store, product) == 0:
            raise no_normals(product)
        told = await _request(needs, product, (body or BankBody()).requested_by or _SOMEBODY, key)
        response.headers["Location"] = told["job_url"]
        return told

    @router.get("/v1/products/{code}/banks", summary="Its banks, newest first")
    async def list_banks(code: str, limit: Limit = 100, cursor: Cursor = None) -> dict[str, Any]:
        record = await known_product(catalog, code)
        offset = offset_of(cursor)
        rows = await catalog.rows("banks", str(record["product"]), limit=limit + 1, offset=offset)
        page = page_of("banks", rows, offset=offset, limit=limit)
        return {"active_bank": record["active_bank"], **page}

    @router.get("/v1/banks/jobs/{job_id}", summary="How far a bank is")
    async def get_job(job_id: JobIdPath) -> dict[str, Any]:
        try:
            progress = await needs.store.get(f"jobs/{job_id}.json", max_bytes=1_000_000)
        except PoisonError:
            raise RefusedError(404, "unknown_job", f"no bank was asked for as {job_id}") from None
        told: dict[str, Any] = json.loads(progress)
        return told

    return router


async def _request(
    needs: ConsoleNeeds, product: str, requested_by: str, key: str | None
) -> dict[str, Any]:
    event_id = act_id(f"bank:{product}", key)
    job_id = event_id.hex
    queued = {
        "job_id": job_id,
        "product": product,
        "state": "queued",
        "step": None,
        "done": 0,
        "total": 0,
        "eta_s": None,
        "version": None,
        "error": None,
    }
    place = f"jobs/{job_id}.json"
    # Written before the event exists: from then on the file is the builder's.
    if await needs.store.stat(place) is None:
        await needs.store.put(place, json.dumps(queued).encode(), content_type="application/json")
    event = BankRequested(
        event_id=event_id,
        occurred_at=needs.clock.now(),
        product=product,
        job_id=job_id,
        requested_by=requested_by,
    )
    (is_new,) = await needs.outbox.append([event])
    return {
        "job_id": job_id,
        "product": product,
        "job_url": f"/v1/banks/jobs/{job_id}",
        "duplicate": not is_new,
    }
