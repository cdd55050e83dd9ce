"""What a change of a schema means for those who still send, or still read, the released one.

A released event may only grow optional fields. Everything else needs a new `.v2` topic, rolled
out consumers first.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "pattern", "format")


def breaking_changes(released: Schema, current: Schema) -> list[str]:
    """List what would break a message or a reader of `released`, empty when nothing would.

    Args:
        released: JSON Schema as it was published.
        current: JSON Schema as the code now makes it.
    """
    return _compare(released, current, released, current, "$")


def _resolve(node: Schema, root: Schema) -> Schema:
    while "$ref" in node:
        name = str(node["$ref"]).rsplit("/", 1)[-1]
        node = root["$defs"][name]
    return node


def _compare(old: Schema, new: Schema, old_root: Schema, new_root: Schema, path: str) -> list[str]:
    old, new = _resolve(old, old_root), _resolve(new, new_root)
    found = _compare_types(old, new, path) + _compare_values(old, new, path)
    found += _compare_fields(old, new, path)
    for name in old.get("properties", {}).keys() & new.get("properties", {}).keys():
        pair = old["properties"][name], new["properties"][name]
        found += _compare(*pair, old_root, new_root, f"{path}.{name}")
    if isinstance(old.get("items"), dict) and isinstance(new.get("items"), dict):
        found += _compare(old["items"], new["items"], old_root, new_root, f"{path}[]")
    found += _compare_branches(old, new, (old_root, new_root), path)
    return found


def _compare_types(old: Schema, new: Schema, path: str) -> list[str]:
    if old.get("type") != new.get("type"):
        return [f"{path}: type {old.get('type')} became {new.get('type')}"]
    return []


def _compare_values(old: Schema, new: Schema, path: str) -> list[str]:
    found = []
    before, after = old.get("enum"), new.get("enum")
    if before is not None and after is not None:
        gone, added = set(before) - set(after), set(after) - set(before)
        found += [
            f"{path}: value {value!r} is no longer allowed" for value in sorted(gone, key=str)
        ]
        found += [
            f"{path}: readers do not know value {value!r}" for value in sorted(added, key=str)
        ]
    elif before != after:
        found.append(f"{path}: the set of allowed values appeared or went")
    found += [
        f"{path}: {bound} {old.get(bound)} became {new.get(bound)}"
        for bound in _BOUNDS
        if old.get(bound) != new.get(bound)
    ]
    return found


def _compare_fields(old: Schema, new: Schema, path: str) -> list[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    found = [f"{path}.{name}: removed" for name in sorted(before.keys() - after.keys())]
    required = set(new.get("required", ())) - set(old.get("required", ()))
    found += [f"{path}.{name}: became required" for name in sorted(required)]
    optional = set(old.get("required", ())) - set(new.get("required", ()))
    found += [
        f"{path}.{name}: readers rely on it, it became optional"
        for name in sorted(optional & after.keys())
    ]
    return found


def _compare_branches(
    old: Schema, new: Schema, roots: tuple[Schema, Schema], path: str
) -> list[str]:
    before, after = old.get("anyOf"), new.get("anyOf")
    if before is None and after is None:
        return []
    if before is None or after is None or len(before) != len(after):
        return [f"{path}: the alternatives changed"]
    found = []
    for one, other in zip(before, after, strict=True):
        found += _compare(one, other, *roots, path)
    return found
