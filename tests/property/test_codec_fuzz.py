import json
from pathlib import Path
from uuid import uuid5

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import MalformedEventError, decode
from schemas.event import NAMESPACE, Event, name_based_id
from schemas.message import Record
from schemas.topics import TOPICS

FULL = json.loads(Path("schemas/examples/images.uploaded/v1/full.json").read_text("utf-8"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def _decode(topic: str, value: bytes) -> Event | None:
    """Any other exception than the documented one fails the test."""
    try:
        return decode(Record(topic, 0, 0, None, value))
    except MalformedEventError as error:
        refusal = error
    assert refusal.reason
    assert str(refusal)
    return None


@settings(max_examples=300, deadline=None)
@given(topic=st.sampled_from(sorted(TOPICS)), value=st.binary(max_size=200))
def test_any_bytes_are_an_event_or_a_documented_error(topic: str, value: bytes) -> None:
    _decode(topic, value)


@settings(max_examples=300, deadline=None)
@given(
    path=st.sampled_from(
        [("subject",), ("event_id",), ("occurred_at",)]
        + [("subject", name) for name in FULL["subject"]]
        + [("subject", "image", name) for name in FULL["subject"]["image"]]
    ),
    value=JSON,
    drop=st.booleans(),
)
def test_a_damaged_upload_is_an_event_or_a_documented_error(
    path: tuple[str, ...], value: object, *, drop: bool
) -> None:
    data = json.loads(json.dumps(FULL))
    parent = data
    for name in path[:-1]:
        parent = parent[name]
    if drop:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    event = _decode("images.uploaded", json.dumps(data).encode())
    if event is not None:
        assert event.event_id


@settings(max_examples=300, deadline=None)
@given(name=st.text())
def test_the_id_of_a_name_is_the_standards_version_5(name: str) -> None:
    found = name_based_id(name)
    assert found == uuid5(NAMESPACE, name)
    assert (found.version, found.variant) == (5, uuid5(NAMESPACE, name).variant)
