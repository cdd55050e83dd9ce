"""The contract as data: JSON Schema per event and AsyncAPI 3 for all topics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.event import Event
from schemas.topics import TOPICS, Topic

VERSION = "1.0.0"

_HEADERS: dict[str, Any] = {
    "type": "object",
    "description": "CloudEvents 1.0, binary mode",
    "required": ["ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time", "content-type"],
    "properties": {
        "ce_specversion": {"const": "1.0"},
        "ce_id": {"type": "string", "format": "uuid", "description": "the event_id"},
        "ce_type": {"type": "string"},
        "ce_source": {"type": "string", "format": "uri-reference"},
        "ce_time": {"type": "string", "format": "date-time"},
        "ce_subject": {"type": "string", "description": "the image_id"},
        "content-type": {"const": "application/json"},
        "traceparent": {"type": "string", "description": "W3C trace context"},
    },
}


def event_types() -> tuple[type[Event], ...]:
    """Every event of the topics table, each once, in table order."""
    return tuple(dict.fromkeys(topic.event for topic in TOPICS.values()))


def json_schema(event: type[Event]) -> dict[str, Any]:
    """JSON Schema (2020-12) of an event's value."""
    schema = event.model_json_schema(mode="validation")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["$id"] = f"lineside:{event.type_name}:v1"
    return schema


def json_schemas() -> dict[str, dict[str, Any]]:
    """File name to schema, for `schemas/json/`."""
    return {f"{event.type_name}.json": json_schema(event) for event in event_types()}


def asyncapi() -> dict[str, Any]:
    """AsyncAPI 3.0 document of all topics; payloads refer to `schemas/json/`."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Lineside",
            "version": VERSION,
            "description": "Events of the visual-inspection pipeline on Apache Kafka.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {name: _channel(topic) for name, topic in TOPICS.items()},
        "operations": _operations(TOPICS),
        "components": {
            "messages": {event.type_name: _message(event) for event in event_types()},
            "schemas": {"CloudEventHeaders": _HEADERS},
        },
    }


def _summary(event: type[Event]) -> str:
    return (event.__doc__ or event.type_name).strip().splitlines()[0]


def _channel(topic: Topic) -> dict[str, Any]:
    keep: dict[str, Any] = (
        {"cleanup.policy": ["compact"]}
        if topic.retention_ms is None
        else {"cleanup.policy": ["delete"], "retention.ms": topic.retention_ms}
    )
    name = topic.event.type_name
    kafka: dict[str, Any] = {"topicConfiguration": keep, "bindingVersion": "0.5.0"}
    if topic.single_partition:
        kafka["partitions"] = 1
    return {
        "address": topic.name,
        "description": f"{_summary(topic.event)} Key: {topic.key_name}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {"kafka": kafka},
    }


def _operations(topics: Mapping[str, Topic]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, topic in topics.items():
        for action, roles in (("send", topic.producers), ("receive", topic.consumers)):
            for role in roles:
                found[f"{role}.{action}.{name}"] = {
                    "action": action,
                    "channel": {"$ref": f"#/channels/{name}"},
                    "tags": [{"name": role}],
                }
    return found


def _message(event: type[Event]) -> dict[str, Any]:
    return {
        "name": event.type_name,
        "summary": _summary(event),
        "headers": {"$ref": "#/components/schemas/CloudEventHeaders"},
        "payload": {"$ref": f"./json/{event.type_name}.json"},
    }
