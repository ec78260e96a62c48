"""The schema in words: which keys a mapping takes and which values a key takes, for messages and for the README."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Location = tuple[str | int, ...]


def find_schema(schema: Mapping[str, Any], location: Location) -> Mapping[str, Any]:
    """The JSON schema of the value at `location`."""
    root, node = schema, _follow(schema, schema)
    for part in location:
        if isinstance(part, int):
            node = _follow(root, node.get("items", {}))
        elif part in node.get("properties", {}):
            node = _follow(root, node["properties"][part])
        else:
            node = _follow(root, node.get("additionalProperties", {}))
    return node


def list_keys(schema: Mapping[str, Any], location: Location) -> list[str]:
    """The keys that are allowed in the mapping at `location`."""
    node = find_schema(schema, location)
    return list(node.get("properties", {})) or list(node.get("propertyNames", {}).get("enum", []))


def describe_range(node: Mapping[str, Any]) -> str:
    """The values that a JSON schema allows, in words: "a number from 0 to 180"."""
    if "anyOf" in node:
        return " or ".join(describe_range(option) for option in node["anyOf"])
    if "enum" in node:
        return "one of " + ", ".join(map(str, node["enum"]))
    match node.get("type"):
        case "integer":
            return "a whole number" + _describe_bounds(node)
        case "number":
            return "a number" + _describe_bounds(node)
        case "boolean":
            return "true or false"
        case "string":
            return "text"
        case "null":
            return "null"
        case "array":
            few, many = node.get("minItems", 0), node.get("maxItems")
            count = f"{few} items" if few == many else "at least one item" if few else "any number of items"
            return f"a list [a, b, ...] of {count}, each {describe_range(node['items'])}"
        case "object" if "properties" not in node and "propertyNames" not in node:
            return f"any number of lines `name: value`, each {describe_range(node['additionalProperties'])}"
    return "a mapping of further parameters"


def _describe_bounds(node: Mapping[str, Any]) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "up to", "exclusiveMaximum": "below"}
    bounds = [f"{word} {node[key]:,}".removesuffix(".0") for key, word in words.items() if key in node]
    return " " + ", ".join(bounds) if bounds else ""


def _follow(root: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Resolve `$ref`s, and the optional section `anyOf [$ref, null]`."""
    if "$ref" in node:
        target = root["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        return {**target, **{k: v for k, v in node.items() if k != "$ref"}}
    for option in node.get("anyOf", []):
        if "$ref" in option:
            return _follow(root, option)
    return node
