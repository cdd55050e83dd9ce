"""`POST /v1/images` (interfaces.md section 3)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from pipeline.errors import RefusedError
from pipeline.telemetry import NullTelemetry, Telemetry
from producers.ingest import Accepted, Capture, Ingest
from producers.upload_form import read_upload

_FORM_FIELDS = frozenset(
    {"product", "source", "station", "line", "part_id", "lot_id", "view", "captured_at"}
    | {"purpose", "anomaly", "report"}
)
# The multipart frame around the file: boundaries, headers and the text fields.
_FRAME_BYTES = 200_000


class UploadGate:
    """Bounds what is being received at once, in requests and in bytes, so that memory holds."""

    def __init__(self, *, max_requests: int = 128, max_bytes: int = 512_000_000) -> None:
        """Only assign."""
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._requests = 0
        self._bytes = 0

    @contextmanager
    def admit(self, size_bytes: int) -> Iterator[None]:
        """Hold room for one request.

        Raises:
            RefusedError: 429 `too_many_uploads`; one request alone is always admitted.
        """
        full = self._bytes + size_bytes > self._max_bytes or self._requests >= self._max_requests
        if full and self._requests:
            detail = "too many uploads at once; wait and send this one again"
            raise RefusedError(429, "too_many_uploads", detail, retry_after_s=1)
        self._requests += 1
        self._bytes += size_bytes
        try:
            yield
        finally:
            self._requests -= 1
            self._bytes -= size_bytes


def build_router(
    ingest: Ingest, gate: UploadGate | None = None, telemetry: Telemetry | None = None
) -> APIRouter:
    """Build the router of the upload; errors are `RefusedError` and `RequestValidationError`."""
    router = APIRouter(tags=["images"])
    room = gate or UploadGate()
    measured = telemetry or NullTelemetry()
    limit_bytes = ingest.limits.max_bytes

    @router.post("/v1/images", status_code=202, summary="Send one image")
    async def upload(request: Request) -> Response:
        try:
            accepted = await receive(request)
        except ClientDisconnect:
            measured.count("uploads", outcome="broken_off")
            return Response(status_code=400)  # nobody is there to read it
        except RefusedError as error:
            measured.count("uploads", outcome=error.slug)
            raise
        except RequestValidationError:
            measured.count("uploads", outcome="invalid_fields")
            raise
        measured.count("uploads", outcome="duplicate" if accepted.duplicate else "accepted")
        url = f"/v1/images/{accepted.image_id}"
        answer = {
            "image_id": accepted.image_id,
            "status_url": url,
            "duplicate": accepted.duplicate,
            "duplicate_bytes": accepted.duplicate_bytes,
        }
        return JSONResponse(answer, status_code=202, headers={"Location": url})

    async def receive(request: Request) -> Accepted:
        ingest.check_room()
        with room.admit(_expected_bytes(request, limit_bytes)):
            form = await read_upload(
                request.stream(), request.headers.get("content-type", ""), max_bytes=limit_bytes
            )
            capture = _capture(form.fields, request.headers.get("idempotency-key"))
            if form.file is None:
                raise RequestValidationError([_error("missing", "file", "Field required")])
            return await ingest.accept(form.file, capture)

    return router


def _expected_bytes(request: Request, limit_bytes: int) -> int:
    """Memory that a request may come to need, from what it declares."""
    declared = request.headers.get("content-length", "")
    if not declared.isdecimal():
        return limit_bytes
    # Far beyond the limit there is no use in reading on; just beyond it, `read_upload` refuses
    # after it has read on, so that the sender sees the answer.
    if int(declared) > 2 * limit_bytes + _FRAME_BYTES:
        detail = f"the request has {declared} bytes; a file may have {limit_bytes}"
        raise RefusedError(413, "file_too_large", detail)
    return min(int(declared), limit_bytes)


def _capture(fields: dict[str, str], idempotency_key: str | None) -> Capture:
    given = {name: value for name, value in fields.items() if value.strip()}
    unknown = sorted(set(given) - _FORM_FIELDS)
    if unknown:
        errors = [_error("extra_forbidden", name, "no such field") for name in unknown]
        raise RequestValidationError(errors)
    try:
        return Capture.model_validate({**given, "idempotency_key": idempotency_key or None})
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        raise RequestValidationError(
            [{**item, "loc": ("body", *item["loc"])} for item in found]
        ) from None


def _error(kind: str, name: str, message: str) -> dict[str, object]:
    return {"type": kind, "loc": ("body", name), "msg": message, "input": None}
