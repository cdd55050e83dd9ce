"""Products and their defect types."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from console.api.acts import IdempotencyKey
from console.api.needs import ConsoleNeeds, act_id, checked_code, known_product
from console.api.normals import count_normals
from console.api.paging import Cursor, Limit, offset_of, page_of
from pipeline.errors import RefusedError
from schemas.configuration import Policy, ProductConfigured

_Name = Annotated[str, Field(min_length=1, max_length=200)]
_Factor = Annotated[float, Field(gt=0, lt=100)]


class ProductBody(BaseModel):
    """Settings to change; what is left out stays, null clears. `revision` is the one loaded."""

    model_config = ConfigDict(extra="ignore")

    revision: Annotated[int, Field(ge=0)] = 0
    display_name: _Name | None = None
    display_name_en: _Name | None = None
    active_bank: Annotated[str | None, Field(max_length=100)] = None
    threshold: Annotated[float | None, Field(gt=0)] = None
    review_band: tuple[_Factor, _Factor] | None = None
    policy: Policy | None = None
    language: Literal["ko", "en"] | None = None


class DefectTypeBody(BaseModel):
    """A new defect type; its code is ASCII, for file names and statistics."""

    code: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
    name_ko: _Name
    name_en: _Name


def build_products_router(needs: ConsoleNeeds) -> APIRouter:
    """Build the routes of products and defect types."""
    router = APIRouter(tags=["products"])
    catalog = needs.catalog

    @router.get("/v1/products", summary="All products")
    async def list_products() -> dict[str, Any]:
        return {"products": list(await catalog.products())}

    @router.get("/v1/products/{code}", summary="One product with its active bank")
    async def get_product(code: str) -> dict[str, Any]:
        record = await known_product(catalog, code)
        return {
            **record,
            "bank": await _bank(needs, record),
            "normals": await count_normals(needs.store, str(record["product"])),
        }

    @router.put("/v1/products/{code}", summary="Make or change a product")
    async def put_product(
        code: str, body: ProductBody, response: Response, key: IdempotencyKey = None
    ) -> dict[str, Any]:
        event = await _configured(needs, checked_code(code), body, key)
        await needs.outbox.append([event])
        response.status_code = 201 if event.revision == 1 else 200
        return event.model_dump(mode="json")

    @router.get("/v1/products/{code}/defect-types", summary="Its defect types")
    async def list_defect_types(
        code: str, limit: Limit = 500, cursor: Cursor = None
    ) -> dict[str, Any]:
        record = await known_product(catalog, code)
        offset = offset_of(cursor)
        rows = await catalog.rows(
            "defect_types", str(record["product"]), limit=limit + 1, offset=offset
        )
        return page_of("defect_types", rows, offset=offset, limit=limit)

    @router.post("/v1/products/{code}/defect-types", status_code=201, summary="Add one")
    async def add_defect_type(code: str, body: DefectTypeBody) -> dict[str, Any]:
        product = str((await known_product(catalog, code))["product"])
        await catalog.add_defect_type(product, body.model_dump())
        rows = await catalog.rows("defect_types", product, row_id=body.code)
        return rows[0]

    return router


async def _bank(needs: ConsoleNeeds, record: dict[str, Any]) -> dict[str, Any] | None:
    version = record["active_bank"]
    if version is None:
        return None
    rows = await needs.catalog.rows("banks", record["product"], row_id=version, limit=1)
    return rows[0] if rows else None


async def _configured(
    needs: ConsoleNeeds, code: str, body: ProductBody, key: str | None
) -> ProductConfigured:
    """Return the product's next revision: its record with the given settings changed."""
    current = await needs.catalog.product(code) or {}
    given = body.model_dump(exclude_unset=True, exclude={"revision"})
    for name in ("display_name", "policy", "language"):
        if name in given and given[name] is None:
            del given[name]  # these have no empty value
    version = given.get("active_bank")
    if version and not await needs.catalog.rows("banks", code, row_id=version, limit=1):
        detail = f"{code} has no bank {version}; GET /v1/products/{code}/banks lists them"
        raise RefusedError(422, "unknown_bank", detail)
    if not current and "display_name" not in given:
        raise RefusedError(422, "name_required", "a new product needs a `display_name`")
    try:
        return ProductConfigured.model_validate(
            {
                **current,
                **given,
                "event_id": act_id(f"product:{code}", key),
                "occurred_at": needs.clock.now(),
                "product": code,
                "revision": body.revision + 1,
            }
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RefusedError(422, "invalid_fields", f"{place}: {first['msg']}") from None
