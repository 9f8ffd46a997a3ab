"""Validation rules for fields of JSON files: types and ranges."""

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeGuard

from mgm.errors import MGMError


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition on a field's value, and its description for messages.

    Attributes:
        accepts: whether a value is valid.
        valid: description of valid values, for messages.
    """

    accepts: Callable[[object], bool]
    valid: str


def integer(minimum: int, maximum: int | None = None) -> Rule:
    """An integer from `minimum` to `maximum`, both included; not a boolean."""

    def accepts(value: object) -> bool:
        return type(value) is int and minimum <= value and (maximum is None or value <= maximum)

    upper = "" if maximum is None else f" to {maximum}"
    return Rule(accepts, f"an integer from {minimum}{upper}")


def number(minimum: float = -math.inf, maximum: float = math.inf, above: bool = False) -> Rule:
    """A finite number from `minimum` (with `above`, excluded) to `maximum`."""

    def accepts(value: object) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        # An integer may be too large for a float, so infinity is not compared with it.
        finite = isinstance(value, int) or math.isfinite(value)
        return finite and minimum <= value <= maximum and not (above and value == minimum)

    lower = "" if math.isinf(minimum) else f" {'above' if above else 'from'} {minimum:g}"
    upper = "" if math.isinf(maximum) else f", at most {maximum:g}"
    return Rule(accepts, f"a number{lower}{upper}")


BOOLEAN = Rule(lambda value: isinstance(value, bool), "true or false")


def is_text(value: object) -> TypeGuard[str]:
    """Whether a value is a string that can be written as UTF-8: without lone surrogates."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


TEXT = Rule(is_text, "text")
MAX_NAME_LENGTH = 300  # characters of a name in messages


def is_name(value: object) -> TypeGuard[str]:
    """Whether a value is text, short enough for the name of a tensor or a field."""
    return is_text(value) and len(value) <= MAX_NAME_LENGTH


def one_of(*choices: str) -> Rule:
    """One of several strings."""
    return Rule(lambda value: isinstance(value, str) and value in choices, ", ".join(choices))


def list_of(item: Rule, length: int | None = None) -> Rule:
    """A list whose items all follow a rule, of any length or of a given one."""

    def accepts(value: object) -> bool:
        if not isinstance(value, list | tuple) or length not in (None, len(value)):
            return False
        return all(map(item.accepts, value))

    count = "" if length is None else f" of {length}"
    return Rule(accepts, f"a list{count}, each item {item.valid}")


def either(*rules: Rule) -> Rule:
    """A value that one of several rules accepts."""
    return Rule(
        lambda value: any(rule.accepts(value) for rule in rules),
        ", or ".join(rule.valid for rule in rules),
    )


def not_empty(rule: Rule) -> Rule:
    """A value that a rule accepts, except an empty list."""
    return Rule(lambda value: value != [] and rule.accepts(value), f"{rule.valid}, no empty list")


def optional(rule: Rule) -> Rule:
    """A value that a rule accepts, or null."""
    return Rule(lambda value: value is None or rule.accepts(value), f"{rule.valid}, or null")


TOKEN_ID = integer(0, 2**31 - 1)
TOKEN_IDS = optional(either(TOKEN_ID, list_of(TOKEN_ID)))


def shortened(text: str) -> str:
    """Shorten a long name for messages to its beginning and end."""
    return text if len(text) <= MAX_NAME_LENGTH else f"{text[:100]}…{text[-100:]}"


def shown(value: object) -> str:
    """Format a value for messages: its repr, shortened, on one line."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 100
    short.maxlevel = 3
    return shortened(short.repr(value))


def check_fields(
    values: Mapping[str, object], rules: Mapping[str, Rule], where: object, prefix: str = ""
) -> None:
    """Check the values of the fields that are present.

    Args:
        values: a JSON object.
        rules: rules by field name.
        where: start of the message: the file, or "config" inside `config_errors`.
        prefix: prefix of field names in the message, for a nested object.

    Raises:
        MGMError: a value does not follow its rule.
    """
    for name, rule in rules.items():
        if name in values and not rule.accepts(values[name]):
            value = shown(values[name])
            raise MGMError(f"{where}: {prefix}{name} is {value}; valid: {rule.valid}")
