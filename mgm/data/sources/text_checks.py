"""Checks for lone surrogates, which JSON allows and UTF-8 does not; JSON with long integers."""

import json
import re
from typing import Any

_HALF_PAIR = re.compile("[\ud800-\udfff]")


def text_fault(text: str) -> str | None:
    """The fault of a text with a lone surrogate, as text after its name; None: valid Unicode.

    JSON can contain a lone surrogate (`"\\ud83d"`), such as half an emoji that a program split. It
    is not a character: neither UTF-8 nor a tokenizer can encode it.
    """
    half = _HALF_PAIR.search(text)
    if half is None:
        return None
    return (
        f"has half of a surrogate pair (\\u{ord(half[0]):04x}) at position {half.start()}; write "
        "the whole character, or take it out"
    )


def dump_json(value: Any) -> str:
    """Serialise to JSON on one line; lone surrogates stay escaped, so that it is valid UTF-8."""
    text = json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()


def _whole_number(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # Python limits the digits of integers in text
        return float(digits)


# The decoder of json.loads, without a limit for digits.
JSON = json.JSONDecoder(parse_int=_whole_number)
