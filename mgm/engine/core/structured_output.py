"""The form that an answer has."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mgm.engine.core.errors import RequestError
from mgm.errors import one_line

MAX_LENGTH = 2**16  # characters of a schema, a regular expression, a grammar, or all choices
MAX_WHITESPACE = 32  # characters in a row in JSON, or a model may write nothing else for ever
KINDS = ("json", "json_object", "regex", "choice", "grammar")


@dataclass(frozen=True)
class StructuredOutput:
    """The form that an answer has; exactly one of the first five. vLLM's `StructuredOutputsParams`.

    Attributes:
        json: a JSON schema, as an object or as text. `uniqueItems` and formats that are not in
            `mgm.engine.grammar.json_schema.FORMATS` are left to the model; other keywords that no
            grammar can hold, as `not` and `if`, are refused.
        regex: a regular expression that the whole answer matches (Rust's syntax, see
            https://docs.rs/regex/latest/regex/#syntax, without look-around and back references).
        choice: texts, of which the answer is one.
        grammar: a context-free grammar, in Lark's syntax or GBNF
            (https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md).
        json_object: whether the answer is any JSON object.
        disable_any_whitespace: whether JSON has no blanks and line breaks between its tokens; else
            it may have `MAX_WHITESPACE` in a row.
        disable_additional_properties: whether objects of a schema have only the properties that it
            names, where it says nothing else.
        whitespace_pattern: a regular expression of what may be between the tokens of JSON.

    Raises:
        RequestError: none or several are given, or one has the wrong type or is too long.
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
        given = [name for name in KINDS if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise _error(f": give one of {', '.join(KINDS)}; found {found}")
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
                _refuse(name, value, "a text that is not empty")
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
            raise _error(
                f".{given[0]} holds half a surrogate pair, which is no character"
            ) from error

    @property
    def key(self) -> str:
        """The same for what is equal."""
        return json.dumps([*vars(self).values()], ensure_ascii=False)

    @property
    def kind(self) -> str:
        """The name of the one that is given."""
        return next(name for name in KINDS if getattr(self, name) not in (None, False))

    @property
    def is_cheap(self) -> bool:
        """Whether it compiles in next to no time, whatever it holds: texts have no recursion."""
        return self.choice is not None


def _schema_text(schema: object) -> str:
    """A JSON schema as text."""
    try:
        parsed = json.loads(schema) if isinstance(schema, str) else schema
        if isinstance(parsed, Mapping | bool):
            return json.dumps(parsed, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise _error(
            f".json is no JSON schema ({one_line(error)[:200]}); give an object"
        ) from error
    return _refuse("json", schema, "a JSON schema, as an object or as text")


def _refuse(name: str, found: object, valid: str) -> Any:
    raise _error(f".{name} is {found!r:.80}; give {valid}")


def _error(message: str) -> RequestError:
    return RequestError(f"structured_output{message}", "structured_output")
