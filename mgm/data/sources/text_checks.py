"""Texts as JSON may hold them and UTF-8 may not, and numbers of any length."""

import json
import re
from typing import Any

_HALF_PAIR = re.compile("[\ud800-\udfff]")


def text_fault(text: str) -> str | None:
    """What is wrong with a text, to follow its name; None: all of it are characters.

    JSON can write half of a surrogate pair (`"\\ud83d"`), for instance of an emoji that a program
    cut in two. It is no character: neither UTF-8 nor a tokenizer has anything for it.
    """
    half = _HALF_PAIR.search(text)
    if half is None:
        return None
    return (
        f"has half of a surrogate pair (\\u{ord(half[0]):04x}) at position {half.start()}; write "
        "the whole character, or take it out"
    )


def dump_json(value: Any) -> str:
    """JSON on one line that UTF-8 can hold: half of a surrogate pair stays an escape."""
    text = json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()


def _whole_number(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # Python limits the digits of a text that becomes a number
        return float(digits)


# As that of json.loads, but a number may have any length.
JSON = json.JSONDecoder(parse_int=_whole_number)
