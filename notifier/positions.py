"""Positions in the feed: where a client is in every partition, as an opaque text."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from schemas.message import TopicPartition

Offsets = Mapping[TopicPartition, int]

_LONGEST = 100_000


class FeedPosition(NamedTuple):
    """Cluster id and the next offset to read of each partition."""

    cluster_id: str
    offsets: dict[TopicPartition, int]


def encode_position(cluster_id: str, offsets: Offsets) -> str:
    """Return base64url of compact JSON, without padding."""
    topics: dict[str, dict[int, int]] = {}
    for (topic, partition), offset in offsets.items():
        topics.setdefault(topic, {})[partition] = offset
    compact = {
        topic: [numbers.get(number) for number in range(max(numbers) + 1)]
        for topic, numbers in topics.items()
    }
    text = json.dumps({"c": cluster_id, "o": compact}, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_position(text: str) -> FeedPosition:
    """Return what `encode_position` was given.

    Raises:
        ValueError: it is no position of ours.
    """
    if len(text) > _LONGEST:
        raise ValueError("the position is too long")
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        data = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        return FeedPosition(str(data["c"]), _offsets(data["o"]))
    except (binascii.Error, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        message = "the position is not one that this feed gave; use it unchanged, or latest"
        raise ValueError(message) from None


def _offsets(topics: Mapping[str, Any]) -> dict[TopicPartition, int]:
    found = {}
    for topic, numbers in topics.items():
        for partition, offset in enumerate(numbers):
            if offset is None:
                continue
            if type(offset) is not int or not 0 <= offset < 1 << 63:
                raise ValueError("an offset is no number")
            found[TopicPartition(topic, partition)] = offset
    return found
