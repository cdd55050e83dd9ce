import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from schemas.codec import MAX_VALUE_BYTES, MalformedEventError, decode, encode
from schemas.event import uploaded_event_id
from schemas.images import ImageUploaded
from schemas.message import Record
from schemas.topics import TOPICS

EXAMPLES = Path("schemas/examples")


def _record(value: bytes | None, topic: str = "images.uploaded") -> Record:
    return Record(topic, 0, 7, b"k", value, (), 1_762_059_731_000)


def _full() -> bytes:
    return (EXAMPLES / "images.uploaded/v1/full.json").read_bytes()


def test_an_event_survives_the_wire() -> None:
    event = decode(_record(_full()))
    message = encode(event, source="/lineside/web", traceparent="00-a-b-01")
    again = decode(Record(message.topic, 0, 0, message.key, message.value, message.headers))
    assert again == event
    headers = dict(message.headers)
    assert headers["ce_specversion"] == b"1.0"
    assert headers["ce_id"] == str(event.event_id).encode()
    assert headers["ce_type"] == b"ImageUploaded"
    assert headers["ce_subject"] == event.subject.image_id.encode()  # type: ignore[attr-defined] # an ImageUploaded
    assert headers["content-type"] == b"application/json"
    assert headers["traceparent"] == b"00-a-b-01"


def test_the_key_is_the_station_else_the_source_else_the_product() -> None:
    data = json.loads(_full())
    keys = []
    for field in ("station", "source", None):
        event = decode(_record(json.dumps(data).encode()))
        keys.append(encode(event, source="/x").key)
        if field:
            data["subject"][field] = None
    assert keys == [b"OP-40", b"cam-3", "베어링-하우징".encode()]


def test_unknown_fields_are_passed_on() -> None:
    data = json.loads(_full())
    data["subject"]["operator_badge"] = "17"
    data["recipe"] = {"id": 4}
    event = decode(_record(json.dumps(data).encode()))
    value = encode(event, source="/x").value
    assert value is not None
    sent = json.loads(value)
    assert sent["recipe"] == {"id": 4}
    assert sent["subject"]["operator_badge"] == "17"


def test_a_direct_publisher_may_leave_out_what_can_be_derived() -> None:
    value = (EXAMPLES / "images.uploaded/v1/direct-publisher.json").read_bytes()
    event = decode(_record(value))
    assert isinstance(event, ImageUploaded)
    assert event.event_id == uploaded_event_id(event.subject.image_id)
    assert event.subject.received_at == datetime.fromtimestamp(1_762_059_731, UTC)
    assert event.subject.time_quality == "assumed"
    assert decode(_record(value)) == event


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "null_value"),
        (b"", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"{", "not_json"),
        (b"[]", "schema"),
        (b"{}", "schema"),
        (b'{"subject": null}', "schema"),
        (b'{"subject": {"product": "../etc"}}', "schema"),
        (b" " * (MAX_VALUE_BYTES + 1), "oversized_value"),
    ],
)
def test_what_is_no_event_is_refused_with_its_own_reason(value: bytes | None, reason: str) -> None:
    with pytest.raises(MalformedEventError) as caught:
        decode(_record(value))
    assert caught.value.reason == reason


def test_a_topic_without_a_row_is_refused() -> None:
    with pytest.raises(MalformedEventError) as caught:
        decode(_record(b"{}", topic="nobody.knows"))
    assert caught.value.reason == "unknown_topic"


def test_every_topic_has_a_row_key_that_its_example_gives() -> None:
    for name in TOPICS:
        for path in (EXAMPLES / name / "v1").glob("*.json"):
            event = decode(_record(path.read_bytes(), topic=name))
            assert encode(event, source="/x").topic == name
            assert encode(event, source="/x").key
