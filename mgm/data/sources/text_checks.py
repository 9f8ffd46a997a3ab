"""Finds lone surrogates, which JSON allows and UTF-8 does not; a JSON decoder for long integers."""

import json
import re
from typing import Any

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def text_fault(text: str) -> str | None:
    """Describe the first lone surrogate of a text, to follow its name in an error; None: no such.

    JSON can contain a lone surrogate (`"\\ud83d"`), such as half an emoji that a program split. It
    is not a character: neither UTF-8 nor a tokenizer can encode it.
    """
    match = _LONE_SURROGATE.search(text)
    if match is None:
        return None
    return (
        f"has a lone surrogate (\\u{ord(match[0]):04x}) at position {match.start()}, which UTF-8 "
        "cannot encode; write the whole character, or remove it"
    )


def dump_json(value: Any) -> str:
    """Serialise to JSON on one line; lone surrogates stay escaped, so that it is valid UTF-8."""
    text = json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()


def _integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # more digits than Python converts (sys.set_int_max_str_digits)
        return float(digits)


# json.loads fails for integers of over 4300 digits; here they become floats.
JSON = json.JSONDecoder(parse_int=_integer)
