"""Several files in one request, each judged alone: one refused file never stops the others."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile

from console.api.needs import ConsoleNeeds
from pipeline.errors import RefusedError

_MAX_FILES = 200
_MAX_FIELDS = 20
_FIELD_BYTES = 100_000
# One request's files lie in temporary files while they are read; this bounds the disk they take.
_MAX_REQUEST_BYTES = 2_000_000_000

Fields = TypeVar("Fields", bound=BaseModel)
Result = Literal["stored", "duplicate", "refused"]


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A file as it was sent; `data` within the limit."""

    name: str
    data: bytes
    sha256: str


# Keeps one file; returns what became of it and the fields to tell, such as its id.
KeepFile = Callable[[ReceivedFile], Awaitable[tuple[Result, dict[str, Any]]]]


@asynccontextmanager
async def received_form(request: Request) -> AsyncIterator[FormData]:
    """Read a multipart form; its files are closed at the end.

    Raises:
        RefusedError: 413 `request_too_large`, 415 `not_multipart`.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > _MAX_REQUEST_BYTES:
        detail = f"at most {_MAX_REQUEST_BYTES} bytes in one request; send fewer files at once"
        raise RefusedError(413, "request_too_large", detail)
    if "multipart/form-data" not in request.headers.get("content-type", ""):
        detail = "send multipart/form-data with one or more parts called `file`"
        raise RefusedError(415, "not_multipart", detail)
    async with request.form(
        max_files=_MAX_FILES, max_fields=_MAX_FIELDS, max_part_size=_FIELD_BYTES
    ) as form:
        yield form


def parse_fields(model: type[Fields], form: FormData) -> Fields:
    """Return the filled text fields of a form as their model.

    Raises:
        RequestValidationError: naming each field that is wrong.
    """
    given = {k: v for k, v in form.multi_items() if isinstance(v, str) and v.strip()}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        raise RequestValidationError(
            [{**item, "loc": ("body", *item["loc"])} for item in found]
        ) from None


async def keep_files(needs: ConsoleNeeds, form: FormData, keep: KeepFile) -> dict[str, Any]:
    """Give each file to `keep`; returns the counts and a line per file, in order.

    Raises:
        RefusedError: 422 `no_file`.
    """
    files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
    if not files:
        raise RefusedError(422, "no_file", "send at least one part called `file`")
    lines = [await _keep_one(needs, part, keep) for part in files]
    number = {
        result: sum(line["result"] == result for line in lines)
        for result in ("stored", "duplicate", "refused")
    }
    return {
        "stored": number["stored"],
        "duplicates": number["duplicate"],
        "refused": number["refused"],
        "files": lines,
    }


async def _keep_one(needs: ConsoleNeeds, part: UploadFile, keep: KeepFile) -> dict[str, Any]:
    name = part.filename or ""
    told: dict[str, Any] = {"name": name, "sha256": None}
    try:
        data = await _read(part, needs.max_bytes)
        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        told["sha256"] = sha256
        result, more = await keep(ReceivedFile(name, data, sha256))
    except RefusedError as error:
        return {**told, "result": "refused", "reason": error.slug, "detail": error.detail}
    return {**told, "result": result, "reason": None, "detail": None, **more}


async def _read(part: UploadFile, max_bytes: int) -> bytes:
    data = await part.read(max_bytes + 1)
    if len(data) > max_bytes:
        detail = f"larger than {max_bytes} bytes; send a smaller one"
        raise RefusedError(413, "file_too_large", detail)
    return data
