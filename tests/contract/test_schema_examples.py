import hashlib
import json
from pathlib import Path

import jsonschema
import pytest

from app.contract_files import differing
from schemas.codec import decode
from schemas.compatibility import breaking_changes
from schemas.export import json_schemas
from schemas.message import Record
from schemas.topics import TOPICS

EXAMPLES = Path("schemas/examples")
RELEASED = Path("schemas/released/v1")
FILES = sorted(EXAMPLES.rglob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_a_golden_message_still_parses(path: Path) -> None:
    topic = path.parts[-3]
    decode(Record(topic, 0, 0, None, path.read_bytes()))
    if path.stem != "direct-publisher":  # what it leaves out is filled in by the codec
        schema = json_schemas()[f"{TOPICS[topic].event.type_name}.json"]
        jsonschema.Draft202012Validator(schema).validate(json.loads(path.read_text("utf-8")))


def test_golden_messages_are_immutable() -> None:
    """A line is only ever added to SHA256SUMS."""
    lines = (EXAMPLES / "SHA256SUMS").read_text().splitlines()
    listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    found = {
        str(path.relative_to(EXAMPLES)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in FILES
    }
    assert found == listed


def test_every_topic_has_an_example_and_every_example_a_topic() -> None:
    assert {path.parts[-3] for path in FILES} == set(TOPICS)


def test_the_checked_in_contract_is_what_the_code_makes() -> None:
    assert differing(Path("schemas")) == []


@pytest.mark.parametrize("name", sorted(path.name for path in RELEASED.glob("*.json")))
def test_a_released_event_only_grows_optional_fields(name: str) -> None:
    released = json.loads((RELEASED / name).read_text("utf-8"))
    assert breaking_changes(released, json_schemas()[name]) == []


def _change(name: str, change: str) -> list[str]:
    current = json.loads((RELEASED / "ImageScored.json").read_text("utf-8"))
    fields = current["properties"]
    if change == "remove":
        del fields[name]
    elif change == "require":
        current["required"].append(name)
    elif change == "optional":
        current["required"].remove(name)
    elif change == "retype":
        fields[name] = {"type": "boolean"}
    elif change == "enum":
        fields[name]["enum"].append("MAYBE")
    else:
        fields["shift"] = {"type": "string"}
    released = json.loads((RELEASED / "ImageScored.json").read_text("utf-8"))
    return breaking_changes(released, current)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("score", "remove"),
        ("score", "require"),
        ("verdict", "optional"),
        ("reason", "retype"),
        ("verdict", "enum"),
    ],
)
def test_a_breaking_change_is_found(name: str, change: str) -> None:
    assert any(name in line for line in _change(name, change))


def test_a_new_optional_field_is_no_breaking_change() -> None:
    assert _change("shift", "add") == []
