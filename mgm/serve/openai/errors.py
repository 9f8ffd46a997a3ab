"""What is wrong with a request, in the words and the codes of the OpenAI API."""

import codecs
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from mgm.errors import MGMError

UNION_MARK = "~"  # tags of unions begin with it, and are no part of a parameter's name
TEXT, OTHER = "~text", "~other"  # tags of unions of a string and something else
Body = TypeVar("Body", bound=BaseModel)

_KINDS = {
    "bool": "a boolean",
    "dict": "an object",
    "float": "a decimal",
    "int": "an integer",
    "list": "an array",
    "model": "an object",
    "model_attributes": "an object",
    "string": "a string",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "below minimum", ">=", "below_min_value"),
    "greater_than": ("gt", "below minimum", ">", "below_min_value"),
    "less_than_equal": ("le", "above maximum", "<=", "above_max_value"),
    "less_than": ("lt", "above maximum", "<", "above_max_value"),
}


class BadRequestError(MGMError):
    """A request that cannot be answered.

    Attributes:
        field: the parameter that is wrong.
        status: of HTTP.
        code: what OpenAI calls the error, if it has a name for it.
    """

    def __init__(
        self, message: object, field: str | None = None, status: int = 400, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.field, self.status, self.code = field, status, code


def model_not_found(model: str, names: Iterable[str]) -> BadRequestError:
    """The error of a model that is not served.

    Args:
        model: that was asked for.
        names: of the models that are.
    """
    known = ", ".join(names) or "none"
    text = f"the model {model!r:.100} does not exist; choose from {known:.1000}"
    return BadRequestError(text, "model", 404, "model_not_found")


def parse_json(content: bytes) -> Any:
    """The JSON value of a body: in UTF-8, without halves of surrogate pairs, 200 levels at most.

    Raises:
        BadRequestError: it is not valid JSON.
    """
    try:
        return from_json(content.removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        raise BadRequestError(
            f"We could not parse the JSON body of your request ({error}); send valid JSON in UTF-8"
        ) from error


def parse_body(model: type[Body], content: bytes) -> Body:
    """A body as the model of its endpoint.

    Raises:
        BadRequestError: it is not valid JSON, no object, or one of its values is wrong.
    """
    value = parse_json(content)
    if not isinstance(value, dict):
        raise BadRequestError(
            f"Invalid type for the body: expected an object, but got {_kind_of(value)} instead.",
            code="invalid_type",
        )
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _bad_request(first) from error


def _bad_request(error: ErrorDetails) -> BadRequestError:
    context = error.get("ctx", {})
    field = _parameter([*error["loc"], *context.get("below", ())])
    kind, value = error["type"], error["input"]
    if kind == "union_tag_invalid":  # a part of a message, whose field `type` says what it is
        kind, field, value = "literal_error", f"{field}.type", context["tag"].lstrip(UNION_MARK)
        context = {"expected": context["expected_tags"].replace(UNION_MARK, "")}
    if kind.endswith("_type") and error["loc"][-1:] == (OTHER,):
        expected = f"a string or {_KINDS[kind.removesuffix('_type')]}"
        text = (
            f"Invalid type for '{field}': expected {expected}, but got {_kind_of(value)} instead."
        )
        return BadRequestError(text, field, code="invalid_type")
    message, code = _explanation(kind, field, value, context) or (
        f"Invalid '{field}': {error['msg']}.",
        "invalid_value",
    )
    return BadRequestError(message, field, code=code)


def _explanation(
    kind: str, field: str, value: Any, context: Mapping[str, Any]
) -> tuple[str, str] | None:
    """Message and code of pydantic's common errors.

    Args:
        kind: pydantic's type of error.
        field: the parameter.
        value: that was found.
        context: what pydantic tells with the error.
    """
    got = f"but got {value!r:.40} instead."
    if kind == "missing":
        return f"Missing required parameter: '{field}'.", "missing_required_parameter"
    if kind == "none_required":
        return f"Unsupported parameter: '{field}'; leave it out.", "unsupported_parameter"
    if kind == "literal_error":
        text = f"Invalid value: {value!r:.80}. Supported values are: {context['expected']}."
        return text, "invalid_value"
    if kind in _BOUNDS:
        name, side, sign, code = _BOUNDS[kind]
        number = "integer" if isinstance(value, int) else "decimal"
        expected = f"Expected a value {sign} {context[name]}"
        return f"Invalid '{field}': {number} {side} value. {expected}, {got}", f"{number}_{code}"
    if kind == "finite_number" or (kind == "float_type" and type(value) is int):
        return f"Invalid '{field}': expected a finite decimal, {got}", "invalid_value"
    what = "string" if isinstance(value, str) else "array"
    if kind in ("too_short", "string_too_short"):
        return f"Invalid '{field}': empty {what}. Expected a minimum length of 1.", f"empty_{what}"
    if kind in ("too_long", "string_too_long"):
        length = f"a maximum length of {context['max_length']}, but got one of {len(value)}."
        return f"Invalid '{field}': {what} too long. Expected {length}", f"{what}_above_max_length"
    expected = _KINDS.get(kind.removesuffix("_type").removesuffix("_parsing"))
    if expected is None:
        return None
    text = f"Invalid type for '{field}': expected {expected}, but got {_kind_of(value)} instead."
    return text, "invalid_type"


def _parameter(location: Sequence[int | str]) -> str:
    """The name of a parameter as OpenAI writes it, such as messages[0].content."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        elif not part.startswith(UNION_MARK):
            name += f".{part}" if name else part
    return name


def _kind_of(value: object) -> str:
    return "null" if value is None else _KINDS.get(_NAMES.get(type(value), ""), "another type")


_NAMES = {bool: "bool", dict: "dict", float: "float", int: "int", list: "list", str: "string"}
