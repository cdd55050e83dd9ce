"""Which objects may be named at all: keys that cannot leave their store, and the allow-list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import PoisonError

# Where a local store keeps what is half-written; no key may lead there.
TEMPORARY_FOLDER = ".storing"
_MAX_KEY_BYTES = 1024
_MAX_SEGMENT_BYTES = 255


def check_key(key: str) -> str:
    """Return the key if every store can hold it.

    Raises:
        PoisonError: `bad_object_key`; absolute, with empty, `.` or `..` parts, a backslash,
            control characters, or too long.
    """
    parts = key.split("/")
    if (
        any(part in ("", ".", "..", TEMPORARY_FOLDER) for part in parts)
        or any(ord(letter) < 32 or letter in "\\\x7f" for letter in key)
        or not _fits(key, parts)
    ):
        raise PoisonError("bad_object_key", f"{key[:100]!r} cannot name an object")
    return key


def _fits(key: str, parts: Sequence[str]) -> bool:
    try:
        size_bytes = len(key.encode())
    except UnicodeEncodeError:  # a lone surrogate
        return False
    longest = max(len(part.encode()) for part in parts)
    return size_bytes <= _MAX_KEY_BYTES and longest <= _MAX_SEGMENT_BYTES


@dataclass(frozen=True, slots=True)
class AllowList:
    """Foreign places that events may name, as `bucket/` or `bucket/prefix`.

    For a local store a foreign bucket is a directory, such as `/mnt/mes/pictures`.
    """

    own_bucket: str
    prefixes: tuple[str, ...] = ()

    def is_own(self, bucket: str | None) -> bool:
        """Whether the bucket is the store's own."""
        return bucket is None or bucket == self.own_bucket

    def check(self, bucket: str | None, key: str) -> str:
        """Return the bucket to read.

        Raises:
            PoisonError: `bad_object_key` or `bucket_not_allowed`.
        """
        check_key(key)
        if self.is_own(bucket):
            return self.own_bucket
        assert bucket is not None
        check_key(bucket.strip("/"))  # a foreign directory may not climb either
        place = f"{bucket.rstrip('/')}/{key}"
        if any(_lies_below(place, prefix) for prefix in self.prefixes):
            return bucket
        raise PoisonError(
            "bucket_not_allowed",
            f"{place[:200]} is not on the allow-list; add its prefix to "
            "LINESIDE_OBJECTS__ALLOWED_PREFIXES, or store the image through POST /v1/images",
        )


def _lies_below(place: str, prefix: str) -> bool:
    """Compare whole path parts, so that `mes` does not open `mes-secret`."""
    whole = prefix.removeprefix("s3://").rstrip("/") + "/"
    return len(whole) > 1 and place.startswith(whole)
