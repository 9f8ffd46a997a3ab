"""JSON schemas as in practice: pydantic, annotations, additional properties."""

import json

import pytest

from mgm.engine.core.structured_output import StructuredOutput
from mgm.engine.core.token_bytes import TokenBytes
from mgm.engine.grammar.compiler import GrammarCompiler
from mgm.engine.grammar.json_schema import FORMATS, normalize_schema
from tests.tiny_model import byte_tokenizer


def test_annotations_are_dropped():
    schema = {
        "type": "object",
        "properties": {
            "format": {"type": "string", "format": "path"},
            "uniqueItems": {"type": "array", "uniqueItems": True, "items": {"format": "int32"}},
            "when": {"anyOf": [{"format": "date"}, {"format": "binary"}, True]},
        },
        "propertyNames": {"type": "string"},
        "const": {"format": "path", "uniqueItems": True},
        "enum": [{"format": "path"}],
    }
    assert normalize_schema(schema) == {
        "type": "object",
        "properties": {
            "format": {"type": "string"},
            "uniqueItems": {"type": "array", "items": {}},
            "when": {"anyOf": [{"format": "date"}, {}, True]},
        },
        "const": {"format": "path", "uniqueItems": True},
        "enum": [{"format": "path"}],
    }
    assert schema["propertyNames"]  # the argument is not modified


def test_objects_forbid_additional_properties():
    schema = {
        "properties": {"properties": {"properties": {}}, "a": {"additionalProperties": True}},
        "items": {"patternProperties": {"x": {}}, "additionalProperties": {"type": "null"}},
        "default": {"properties": {}},
    }
    assert normalize_schema(schema, close_objects=True) == {
        "properties": {
            "properties": {"properties": {}, "additionalProperties": False},
            "a": {"additionalProperties": True},
        },
        "items": {"patternProperties": {"x": {}}, "additionalProperties": {"type": "null"}},
        "default": {"properties": {}},
        "additionalProperties": False,
    }


PYDANTIC = [
    {"format": "binary", "type": "string"},
    {"format": "file-path", "type": "string"},
    {"format": "uuid4", "type": "string"},
    {"format": "password", "type": "string", "writeOnly": True},
    {"items": {"type": "integer"}, "type": "array", "uniqueItems": True, "minItems": 2},
    {"additionalProperties": {"type": "integer"}, "propertyNames": {"type": "string"}},
    {
        "discriminator": {"propertyName": "kind"},
        "oneOf": [
            {"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]}
            for kind in ("circle", "square")
        ],
    },
]


@pytest.mark.parametrize(
    "schema", [*PYDANTIC, *({"type": "string", "format": name} for name in sorted(FORMATS))]
)
def test_pydantic_schemas(schema):
    pytest.importorskip("llguidance")
    compiler = GrammarCompiler(TokenBytes(byte_tokenizer()), 261)
    form = StructuredOutput(json=json.dumps({"type": "object", "properties": {"a": schema}}))
    assert any(compiler.compile(form, frozenset({4})).bitmask())
