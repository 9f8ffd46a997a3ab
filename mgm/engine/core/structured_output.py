"""Structured output: constrains answers to a JSON schema, regex, choice or grammar."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mgm.engine.core.errors import RequestError
from mgm.errors import one_line

MAX_LENGTH = 2**16  # characters of a schema, a regular expression, a grammar, or all choices
MAX_WHITESPACE = 32  # characters in a row in JSON: models can get stuck writing whitespace
CONSTRAINT_KINDS = ("json", "json_object", "regex", "choice", "grammar")


@dataclass(frozen=True)
class StructuredOutput:
    """A constraint on an answer, as vLLM's `StructuredOutputsParams`; one of the first five fields.

    Attributes:
        json: a JSON schema, as an object or as text. `uniqueItems` and formats that are not in
            `mgm.engine.grammar.json_schema.FORMATS` are ignored; other keywords that a grammar
            cannot express, such as `not` and `if`, are rejected.
        regex: a regular expression for the whole answer (Rust's syntax, see
            https://docs.rs/regex/latest/regex/#syntax, without look-around and back references).
        choice: the texts that the answer can be.
        grammar: a context-free grammar, in Lark's syntax or GBNF
            (https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md).
        json_object: whether the answer is any JSON object.
        disable_any_whitespace: whether JSON has no whitespace between its tokens; otherwise up to
            `MAX_WHITESPACE` characters at a time are allowed.
        disable_additional_properties: whether `additionalProperties` of a schema defaults to
            false.
        whitespace_pattern: a regular expression for whitespace between the tokens of JSON.

    Raises:
        RequestError: no or several constraints are given, or one has the wrong type or is too long.
    """

    json: str | Mapping[str, Any] | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool = False
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in CONSTRAINT_KINDS if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise _error(f": give one of {', '.join(CONSTRAINT_KINDS)}; got {got}")
        if self.json is not None:
            object.__setattr__(self, "json", _schema_text(self.json))
        if self.choice is not None:
            texts = isinstance(self.choice, list | tuple) and self.choice
            if not texts or not all(isinstance(text, str) and text for text in self.choice):
                _refuse("choice", self.choice, "a list of texts that are not empty")
            object.__setattr__(self, "choice", tuple(self.choice))
        for name in ("regex", "grammar", "whitespace_pattern"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value):
                _refuse(name, value, "a non-empty string")
        for name in ("json_object", "disable_any_whitespace", "disable_additional_properties"):
            if not isinstance(getattr(self, name), bool):
                _refuse(name, getattr(self, name), "True or False")
        texts = (self.json, self.regex, self.grammar, self.whitespace_pattern, *(self.choice or ()))
        length = sum(len(text) for text in texts if text)
        if length > MAX_LENGTH:
            raise _error(f".{given[0]} has {length} characters; at most {MAX_LENGTH} are taken")
        try:
            self.key.encode()
        except UnicodeEncodeError as error:
            raise _error(f".{given[0]} has a lone surrogate, which is not a character") from error

    @property
    def key(self) -> str:
        """Cache key: equal for equal constraints."""
        return json.dumps([*vars(self).values()], ensure_ascii=False)

    @property
    def kind(self) -> str:
        """Name of the constraint: the one of the five fields that is set."""
        return next(name for name in CONSTRAINT_KINDS if getattr(self, name) not in (None, False))

    @property
    def is_cheap(self) -> bool:
        """Whether the constraint always compiles quickly: choices have no recursion."""
        return self.choice is not None


def _schema_text(schema: object) -> str:
    """A JSON schema as text."""
    try:
        parsed = json.loads(schema) if isinstance(schema, str) else schema
        if isinstance(parsed, Mapping | bool):
            return json.dumps(parsed, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise _error(
            f".json is not a JSON schema ({one_line(error)[:200]}); give an object"
        ) from error
    return _refuse("json", schema, "a JSON schema, as an object or as text")


def _refuse(name: str, value: object, valid: str) -> Any:
    raise _error(f".{name} is {value!r:.80}; give {valid}")


def _error(message: str) -> RequestError:
    return RequestError(f"structured_output{message}", "structured_output")
