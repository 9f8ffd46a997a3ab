"""Refuses fields of records that training cannot use and must not ignore: media, tools, weights."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from mgm.data.images.data_url import looks_like_base64
from mgm.data.images.extensions import IMAGE_EXTENSIONS
from mgm.data.sources.sample import SampleError, is_url

UNSUPPORTED_KIND = "unsupported"
NO_TOOLS = "tool calls are not supported; remove the sample"
TOOL_ROLES = frozenset(
    ("tool", "tools", "function", "function_call", "function_response", "observation", "ipython",
     "tool_call", "tool_response", "tool_result")
)  # fmt: skip
MEDIA_ENDINGS = (
    "mp4", "m4v", "webm", "mkv", "avi", "mov", "mpeg", "mpg", "wmv", "flv", "3gp", "ogv",
    "wav", "mp3", "flac", "ogg", "oga", "opus", "m4a", "aac", "wma", "aiff", "amr",
)  # fmt: skip

_MEDIA = "has media other than images, which the model cannot read; remove the sample"
_TOOLS = f"has tool definitions; {NO_TOOLS}"
_PREFERENCE = "is preference data, but every answer is trained on; keep only chosen answers"
_WEIGHT = "is a loss weight, which is not supported; remove it, or repeat the sample"
_SYSTEM = "may be a system prompt; rename it to 'system', or remove it"
_HISTORY = "has earlier turns, which are not read; move them to the conversation"
_MESSAGE_FIELDS = {
    **dict.fromkeys(("tool_calls", "function_call", "tool_call_id"), f"is set, but {NO_TOOLS}"),
    **dict.fromkeys(
        ("reasoning_content", "reasoning", "thinking", "refusal"),
        "is not trained on; move it to the text, or remove it",
    ),
    **dict.fromkeys(("audio", "video", "videos", "image", "images"),
                    "is not read in a message; make it a part of the message's content, or move it "
                    "to 'images' of the sample"),
}  # fmt: skip
_LOSS_FIELDS = ("weight", "loss", "train", "trainable", "loss_mask", "loss_scale")
_NAME = "is a speaker's name, which conversation templates do not support; move it to the text"
_ROLE_NAMES = ("user", "human", "assistant", "gpt", "system", "")

_MEDIA_NAME = re.compile(rf"[^\n]{{1,4000}}\.(?:{'|'.join(MEDIA_ENDINGS)})", re.IGNORECASE)
_IMAGE_NAME = re.compile(rf"[^\n]{{1,4000}}\.(?:{'|'.join(IMAGE_EXTENSIONS)})", re.IGNORECASE)
_NO_VALUE = ("none", "null", "nan", "false", "no", "n/a", "0")


def is_empty(value: Any) -> bool:
    """Whether a value is null, empty text, empty JSON, or a list or object of such values.

    Tables have all columns in every row, and tools are stored as JSON.
    """
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}", "null")
    if isinstance(value, dict):
        return all(map(is_empty, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_empty, value))
    return value is None


def _leaves(value: Any) -> Iterator[Any]:
    """The values in a field, flattened out of lists and objects."""
    if isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _leaves(one)
    else:
        yield value


def _names_a_file(value: Any, endings: re.Pattern[str]) -> bool:
    """Whether a text is a file name with one of these extensions, ignoring the query of a URL."""
    return isinstance(value, str) and bool(
        endings.fullmatch(value.strip().partition("?")[0] if is_url(value) else value.strip())
    )


def _is_media(value: Any) -> bool:
    """Whether a field with the name of media has any: bytes, audio samples, a name or an id."""
    if isinstance(value, str):
        text = value.strip()
        is_name = text.lower() not in _NO_VALUE and len(text.split()) == 1
        return is_name or _names_a_file(text, _MEDIA_NAME)
    if isinstance(value, list | tuple):
        return any(map(_is_media, value))
    return value is True or isinstance(value, dict | bytes)


def _holds_media(value: Any) -> bool:
    """Whether a field with a generic name has bytes or names of media."""
    return any(isinstance(one, bytes) or _names_a_file(one, _MEDIA_NAME) for one in _leaves(value))


def _holds_tools(value: Any) -> bool:
    """Whether a value has a definition of a tool, or its JSON; code of functions is not one."""
    if isinstance(value, str):
        return value.lstrip().startswith(("{", "[{"))
    if isinstance(value, list | tuple):
        return any(map(_holds_tools, value))
    return isinstance(value, dict)


def _is_not_false(value: Any) -> bool:
    return value is not False


def _weighs(value: Any) -> bool:
    return isinstance(value, int | float) and value != 1


# Pattern of the plain name (see `plain_name`), whether a value is refused, and the reason.
_Rule = tuple[re.Pattern[str], Callable[[Any], bool], str]
_RULES: tuple[_Rule, ...] = (
    (re.compile(r"(?:video|audio)s?(?:(?:path|url|file|name|clip|byte)s?)*"), _is_media, _MEDIA),
    (re.compile(rf"(?:.*\.)?(?:{'|'.join(MEDIA_ENDINGS)})"), _is_media, _MEDIA),
    (re.compile(
        r"(?:clip|media|attachment|file|frame|movie|recording|sound|speech|voice|vision)"
        r"(?:e?s)?(?:(?:path|url|file|name)s?)*"
    ), _holds_media, _MEDIA),
    (re.compile(r"tools|functions|toolcalls"), _holds_tools, _TOOLS),
    (re.compile(r"chosen|rejected|rejected(?:response|messages|images)"), _is_not_false,
     _PREFERENCE),
    (re.compile(r"ktotag"), lambda value: True, _PREFERENCE),
    (re.compile(r"weight|lossweight|sampleweight"), _weighs, _WEIGHT),
    (re.compile(r"(?:meta|custom)instructions?"), lambda value: isinstance(value, str), _SYSTEM),
    (re.compile(r"history"), lambda value: isinstance(value, list | tuple | str), _HISTORY),
)  # fmt: skip
_SYSTEM_FIELD = re.compile(r"system(?:prompt|message|instruction)?s?")
_FILES_FIELD = re.compile(r"(?:media|attachment|file|frame)s?(?:(?:path|url|file|name)s?)*")
_IMAGE_FIELD = re.compile(
    r"(?:input|query|question|source|target|left|right|first|second)?"
    r"(?:img|image|picture|photo|pixelvalue)s?"
    r"(?P<number>\d+)?"
    r"(?P<form>(?:(?:path|file|filename|url|uri|name|b64|base64|byte|list|str|data)s?)*)"
)
_FILE_FORM = re.compile(r"path|file|ur[li]|b64|base64|byte")
_READ = ("image", "images")
# Arrays in members of a tar; beside an image they are its features or depth map.
_ARRAY = re.compile(r"(?:.*\.)?(?:np[yz]|pth?|pkl|pickle|pyd|safetensors)")


@lru_cache(maxsize=4096)
def plain_name(name: str) -> str:
    """A field's name in lower case, without `_`, `-` and spaces."""
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


@lru_cache(maxsize=4096)
def _rule(name: str) -> _Rule | None:
    return next((rule for rule in _RULES if rule[0].fullmatch(plain_name(name))), None)


@lru_cache(maxsize=4096)
def is_system_field(name: str) -> bool:
    """Whether a field of a record is the system prompt."""
    return _SYSTEM_FIELD.fullmatch(plain_name(name)) is not None


@lru_cache(maxsize=4096)
def _image_field(name: str) -> re.Match[str] | None:
    if name in _READ:
        return None
    return _IMAGE_FIELD.fullmatch(plain_name(name)) or _FILES_FIELD.fullmatch(plain_name(name))


def refuse_fields(record: Mapping[str, Any], where: str) -> None:
    """Refuse a record with a field that training cannot use and must not ignore.

    Raises:
        SampleError: names the field.
    """
    for name, value in record.items():
        rule = _rule(name)
        if rule is not None and not is_empty(value) and rule[1](value):
            raise SampleError(f"{where}: field {name!r} {rule[2]}", UNSUPPORTED_KIND)


def refuse_message_fields(
    message: Mapping[str, Any], where: str, supervised: bool, role: str = "", name: str = ""
) -> None:
    """Refuse a message with a field that training cannot use and must not ignore.

    Args:
        message: raw message.
        where: prefix of errors.
        supervised: whether it is an answer, which the loss covers.
        role: role of the message.
        name: name of that role in the record.

    Raises:
        SampleError: names the field.
    """
    for field in message:
        value = message[field]
        if value is None:
            continue
        if field in _MESSAGE_FIELDS and not is_empty(value):
            raise SampleError(
                f"{where}: field {field!r} {_MESSAGE_FIELDS[field]}", UNSUPPORTED_KIND
            )
        if field in _LOSS_FIELDS and not is_empty(value):
            # Answers are always in the loss, questions never.
            usual = value == 1 if supervised else value == 0 or field == "weight"
            if not usual:
                raise SampleError(
                    f"{where}: field {field!r} is {value!r:.40}, but the loss covers all answers "
                    "and no question; split or remove the sample",
                    UNSUPPORTED_KIND,
                )
        if field == "name" and str(value).lower() not in (*_ROLE_NAMES, role, name.lower()):
            raise SampleError(f"{where}: field 'name' {_NAME}", UNSUPPORTED_KIND)


def refuse_unread_images(
    record: Mapping[str, Any], names: Sequence[str | bytes | None], where: str
) -> None:
    """Refuse a record with an image in a field that is not read.

    If the record has images that are read, other fields may refer to the same ones: a URL, bytes
    beside a name, or the same file name. Another file name is another image, and so is a field
    with a number.

    Args:
        record: raw record.
        names: names of the images that are read; None or bytes: no name.
        where: prefix of errors.

    Raises:
        SampleError: names the field.
    """
    for name, value in record.items():
        if not names and isinstance(value, bytes) and _ARRAY.fullmatch(name):
            raise SampleError(
                f"{where}: {name!r} is an array file, which is not read; save it as an image file, "
                "or remove it",
                UNSUPPORTED_KIND,
            )
        match = _image_field(name)
        if match is None and not names and name not in _READ and _is_embedded(value):
            raise _unread(name, where)
        if match is None or is_empty(value):
            continue
        read_names = [_base(one) if isinstance(one, str) else None for one in names]
        number, form = match.groupdict().get("number"), match.groupdict().get("form")
        is_file = form is not None and _FILE_FORM.search(form) is not None
        unread = [one for one in _leaves(value) if _is_image(one, is_file)]
        if read_names:
            unread = [
                one for one in unread if not isinstance(one, str) or _base(one) not in read_names
            ]
        if read_names and not number:
            comparable = form is not None and "name" not in form and None not in read_names
            unread = [one for one in unread if comparable and _names_a_path(one)]
        if unread:
            raise _unread(name, where)


def _unread(name: str, where: str) -> SampleError:
    return SampleError(
        f"{where}: field {name!r} has an image that is not read; move it to 'image' or 'images', "
        "with a marker for each, or remove the field",
        UNSUPPORTED_KIND,
    )


def _is_embedded(value: Any) -> bool:
    """Whether a value is certainly an image: a data URL, or an image of the datasets library."""
    if isinstance(value, str):
        return value[:32].lstrip()[:11].lower() == "data:image/"
    return isinstance(value, dict) and value.keys() == {"bytes", "path"} and not is_empty(value)


def _is_image(value: Any, is_file: bool) -> bool:
    """Whether a field with the name of an image has one.

    Args:
        value: value of the field.
        is_file: whether the field's name is that of a file or path, so that any text is an image.
    """
    if isinstance(value, str):
        text = value.strip()
        is_image = is_url(text) or text[:11].lower() == "data:image/" or looks_like_base64(text)
        return bool(text) and (is_file or is_image or _names_a_file(text, _IMAGE_NAME))
    return isinstance(value, bytes)


def _names_a_path(value: Any) -> bool:
    return _names_a_file(value, _IMAGE_NAME) and not is_url(value)


def _base(name: str) -> str:
    return name.rpartition("/")[2]
