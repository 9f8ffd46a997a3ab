"""Validation errors of request bodies as errors of the OpenAI API: message, parameter, code."""

import codecs
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from mgm.errors import MGMError

UNION_MARK = "~"  # prefix of pydantic's union tags, which are no part of a parameter's name
TEXT, OTHER = "~text", "~other"  # tags of unions of a string and another type
BodyModel = TypeVar("BodyModel", bound=BaseModel)

_TYPE_NAMES = {
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
    """An invalid request.

    Attributes:
        field: the invalid parameter.
        status: HTTP status.
        code: OpenAI's code of the error, if it has one.
    """

    def __init__(
        self, message: object, field: str | None = None, status: int = 400, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.field, self.status, self.code = field, status, code


def model_not_found(model: str, names: Iterable[str]) -> BadRequestError:
    """The error of a model that is not served.

    Args:
        model: the requested one.
        names: names of the models that are served.
    """
    served = ", ".join(names) or "none"
    text = f"the model {model!r:.100} does not exist; choose from {served:.1000}"
    return BadRequestError(text, "model", 404, "model_not_found")


def parse_json_body(content: bytes) -> Any:
    """Parse JSON in UTF-8, without lone surrogates, at most 200 levels deep.

    Raises:
        BadRequestError: the body is not valid JSON.
    """
    try:
        return from_json(content.removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        raise BadRequestError(
            f"We could not parse the JSON body of your request ({error}); send valid JSON in UTF-8"
        ) from error


def parse_body(model: type[BodyModel], content: bytes) -> BodyModel:
    """Parse and validate a request body.

    Raises:
        BadRequestError: the body is not a JSON object, or fails validation.
    """
    value = parse_json_body(content)
    if not isinstance(value, dict):
        raise BadRequestError(
            f"Invalid type for the body: expected an object, but got {_type_name(value)} instead.",
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
    if kind == "union_tag_invalid":  # a message part with an unknown `type`
        kind, field, value = "literal_error", f"{field}.type", context["tag"].lstrip(UNION_MARK)
        context = {"expected": context["expected_tags"].replace(UNION_MARK, "")}
    if kind.endswith("_type") and error["loc"][-1:] == (OTHER,):
        expected = f"a string or {_TYPE_NAMES[kind.removesuffix('_type')]}"
        text = (
            f"Invalid type for '{field}': expected {expected}, but got {_type_name(value)} instead."
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
    """Message and code of pydantic's common errors; None: it is another error.

    Args:
        kind: pydantic's type of error.
        field: the parameter.
        value: the invalid value.
        context: pydantic's context of the error.
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
    expected = _TYPE_NAMES.get(kind.removesuffix("_type").removesuffix("_parsing"))
    if expected is None:
        return None
    text = f"Invalid type for '{field}': expected {expected}, but got {_type_name(value)} instead."
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


def _type_name(value: object) -> str:
    kind = _KINDS.get(type(value), "")
    return "null" if value is None else _TYPE_NAMES.get(kind, "another type")


_KINDS = {bool: "bool", dict: "dict", float: "float", int: "int", list: "list", str: "string"}
