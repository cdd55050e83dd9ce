"""Reads a multipart upload as it arrives and stops at the limit, before it is all in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import NoReturn

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from pipeline.errors import RefusedError

_MAX_FIELD_BYTES = 4_096
_MAX_FIELDS = 30
# What is still read and thrown away after a refusal, so that the sender gets to see the answer
# instead of a connection reset.
_DRAIN_BYTES = 16_000_000


@dataclass(slots=True)
class UploadForm:
    """One file and the text fields beside it."""

    file: bytes | None = None
    fields: dict[str, str] = field(default_factory=dict)


async def read_upload(
    chunks: AsyncIterator[bytes], content_type: str, *, max_bytes: int
) -> UploadForm:
    """Parse `multipart/form-data` with one part called `file`.

    Raises:
        RefusedError: 415 `not_multipart`; 413 `file_too_large`; 422 `bad_form`.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        detail = "send multipart/form-data with the parts file and product"
        raise RefusedError(415, "not_multipart", detail)
    reader = _Reader(boundary, max_bytes)
    try:
        async for chunk in chunks:
            reader.write(chunk)
        return reader.finish()
    except RefusedError:
        await _drain(chunks)
        raise
    except MultipartParseError as error:
        raise RefusedError(422, "bad_form", f"the multipart body is broken: {error}") from None
    finally:
        reader.close()


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    seen_bytes = 0
    async for chunk in chunks:
        seen_bytes += len(chunk)
        if seen_bytes > _DRAIN_BYTES:
            return


class _Reader:
    """Collects parts from the parser's callbacks."""

    def __init__(self, boundary: bytes, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._form = UploadForm()
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        self._name = ""
        self._body = bytearray()
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._take_header_name,
                "on_header_value": self._take_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._open_part,
                "on_part_data": self._take_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def close(self) -> None:
        """Let go of the picture: the parser's callbacks are a circle that holds it for long."""
        self._parser.callbacks = {}
        self._body = bytearray()
        self._form = UploadForm()

    def write(self, chunk: bytes) -> None:
        self._parser.write(chunk)

    def finish(self) -> UploadForm:
        self._parser.finalize()
        if not self._ended:
            _refuse("the body ends before its last boundary; send it again")
        return self._form

    def _begin(self) -> None:
        self._disposition = b""
        self._body = bytearray()

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]
        if len(self._header_value) > _MAX_FIELD_BYTES:
            _refuse("a part's header is too long")

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _open_part(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if not self._name:
            _refuse("a part has no name")
        taken = self._form.file is not None if self._name == "file" else False
        if taken or self._name in self._form.fields:
            _refuse(f"{self._name} is given twice; send one image per request")
        if len(self._form.fields) >= _MAX_FIELDS:
            _refuse(f"more than {_MAX_FIELDS} fields")

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        self._body += memoryview(data)[start:end]
        if self._name == "file":
            if len(self._body) > self._max_bytes:
                detail = f"the file is larger than {self._max_bytes} bytes"
                raise RefusedError(413, "file_too_large", detail)
        elif len(self._body) > _MAX_FIELD_BYTES:
            _refuse(f"{self._name} is longer than {_MAX_FIELD_BYTES} bytes")

    def _end_part(self) -> None:
        if self._name == "file":
            self._form.file = bytes(self._body)
            self._body = bytearray()
            return
        try:
            self._form.fields[self._name] = self._body.decode()
        except UnicodeDecodeError:
            _refuse(f"{self._name} is not UTF-8")

    def _end(self) -> None:
        self._ended = True


def _refuse(detail: str) -> NoReturn:
    raise RefusedError(422, "bad_form", detail)
