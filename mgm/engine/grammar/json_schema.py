"""Normalizes JSON schemas: removes unsupported keywords that llguidance would reject."""

from collections.abc import Callable, Mapping
from typing import Any

MAX_OPTIONAL = 1000  # properties of one object: each is a branch at every step
FORMATS = frozenset(  # string formats that llguidance supports
    ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid")
)
_SCHEMAS_BY_NAME = (
    "properties",
    "patternProperties",
    "$defs",
    "definitions",
    "dependentSchemas",
)
_SCHEMA_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SCHEMAS = (
    "items",
    "additionalItems",
    "unevaluatedItems",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "contains",
    "not",
    "if",
    "then",
    "else",
)


def normalize_schema(schema: Any, close_objects: bool = False) -> Any:
    """A schema without keywords that llguidance rejects and that can be dropped.

    String formats that are not in `FORMATS` are mere annotations, `propertyNames` that only
    requires strings is always true, and `uniqueItems` cannot be expressed by a grammar.

    Args:
        schema: parsed JSON; it is not changed.
        close_objects: whether `additionalProperties` defaults to false.

    Raises:
        ValueError: a pattern ends in a lone backslash, or an object has too many optional
            properties.
    """
    if not isinstance(schema, Mapping):
        return schema

    def nested(one: Any) -> Any:
        return normalize_schema(one, close_objects)

    normal = {
        keyword: _normalize_value(keyword, value, nested) for keyword, value in schema.items()
    }
    if isinstance(normal.get("format"), str) and normal["format"] not in FORMATS:
        del normal["format"]
    if normal.get("propertyNames") == {"type": "string"}:
        del normal["propertyNames"]
    normal.pop("uniqueItems", None)
    check_pattern(normal.get("pattern"))
    for pattern in _mapping(normal.get("patternProperties")):
        check_pattern(pattern)
    if close_objects and ("properties" in normal or "patternProperties" in normal):
        normal.setdefault("additionalProperties", False)
    _check_optional(normal)
    return normal


def check_pattern(pattern: object) -> None:
    """Refuse an invalid regular expression that llguidance accepts.

    Raises:
        ValueError: the pattern ends in a lone backslash, which llguidance would drop.
    """
    if isinstance(pattern, str) and (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        raise ValueError(f"{pattern[-80:]!r} ends in a lone backslash")


def _normalize_value(keyword: str, value: Any, nested: Callable[[Any], Any]) -> Any:
    if keyword in _SCHEMAS_BY_NAME and isinstance(value, Mapping):
        return {name: nested(one) for name, one in value.items()}
    if keyword in _SCHEMA_LISTS and isinstance(value, list):
        return [nested(one) for one in value]
    return nested(value) if keyword in _SCHEMAS else value


def _check_optional(schema: Mapping[str, Any]) -> None:
    required = schema.get("required")
    names = set(_mapping(schema.get("properties")))
    if isinstance(required, list):
        names -= {name for name in required if isinstance(name, str)}
    if len(names) > MAX_OPTIONAL:
        raise ValueError(
            f"an object has {len(names)} optional properties, and at most {MAX_OPTIONAL} are taken"
        )


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}
