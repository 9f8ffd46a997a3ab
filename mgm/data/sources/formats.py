"""Rows of tables and members of tars as samples in the published form.

Hugging Face data sets and WebDatasets hold conversations in several ways; these are understood:

    conversations  [{"from": "human", "value": ...}, ...], as the published files
    messages       [{"role": "user", "content": ...}, ...], as the OpenAI API
    texts          [{"user": ..., "assistant": ...}, ...], as the Cauldron
    caption        a text, or txt or text: what is in the image

Images are in `image` or `images`, or, in a tar, in members such as `jpg` or `1.png`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mgm.data.sources.sample import HUMAN, MODEL, SampleError
from mgm.data.text.templates import IMAGE_MARKER

CAPTIONS = ("caption", "txt", "text")
LAYOUTS = ("conversations", "messages", "texts", *CAPTIONS)
_ROLES = {"user": HUMAN, "assistant": MODEL}
_IMAGE_MEMBER = re.compile(r"(.*\.)?(jpg|jpeg|png|webp|gif|bmp|tif|tiff)", re.IGNORECASE)


def as_sample(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A row in the published form, for `check_sample`; of images, bytes or path.

    Args:
        row: by column; in a tar by the ending of the member's name.
        where: what errors begin with.

    Raises:
        SampleError: the row has no conversation that is understood.
    """
    layout = next((name for name in LAYOUTS if row.get(name) is not None), None)
    if layout is None:
        raise SampleError(
            f"{where}: has none of {', '.join(LAYOUTS)} (found: {', '.join(row) or 'nothing'}); "
            "name its columns so"
        )
    images = _images(row)
    if layout == "conversations":
        return {"conversations": row[layout], "image": images or None}
    messages = _messages(row[layout], layout, where)
    if images and not any(IMAGE_MARKER in str(message["value"]) for message in messages):
        # Only the published form says where its images belong: before the first question.
        if messages[0]["from"] == MODEL:
            messages.insert(0, {"from": HUMAN, "value": ""})
        marks = f"{IMAGE_MARKER}\n" * len(images)
        messages[0]["value"] = (marks + str(messages[0]["value"])).rstrip("\n")
    return {"conversations": messages, "image": images or None}


def _messages(content: Any, layout: str, where: str) -> list[dict[str, Any]]:
    if layout in CAPTIONS:
        if not isinstance(content, str) or not content.strip():
            raise SampleError(f"{where}: has no text in {layout!r}", "no answer")
        return [{"from": MODEL, "value": content}]
    if not isinstance(content, Sequence) or isinstance(content, str) or not content:
        raise SampleError(f"{where}: has no list of messages in {layout!r}")
    messages: list[dict[str, Any]] = []
    for number, entry in enumerate(content):
        if not isinstance(entry, Mapping):
            raise SampleError(f"{where}: message {number} in {layout!r} is no object")
        if layout == "texts":
            messages += [{"from": _ROLES[role], "value": entry.get(role)} for role in _ROLES]
            continue
        role = entry.get("role")
        if role not in _ROLES:
            raise SampleError(
                f"{where}: message {number} has role {role!r}; choose user or assistant (the "
                "system's text is the template's, --version)",
                "roles",
            )
        messages.append({"from": _ROLES[role], "value": _text(entry.get("content"))})
    return messages


def _text(content: Any) -> Any:
    """The text of a message, which may be a list of parts, images among them."""
    if not isinstance(content, Sequence) or isinstance(content, str):
        return content
    parts = [part if isinstance(part, Mapping) else {} for part in content]
    marks = f"{IMAGE_MARKER}\n" * sum("image" in str(part.get("type")) for part in parts)
    return marks + "\n".join(str(part["text"]) for part in parts if part.get("text"))


def _images(row: Mapping[str, Any]) -> list[Any]:
    """Bytes or path of each image; those in a tar before those that its json names."""
    members = [row[name] for name in row if _IMAGE_MEMBER.fullmatch(name)]
    if members:
        return [_image(member) for member in members]
    found = row.get("image") if row.get("image") is not None else row.get("images")
    several = (
        found if isinstance(found, Sequence) and not isinstance(found, str | bytes) else [found]
    )
    return [_image(entry) for entry in several if entry is not None]


def _image(entry: Any) -> Any:
    """The datasets library's images are objects of bytes and path, of which one may be None."""
    if not isinstance(entry, Mapping):
        return entry
    return entry.get("bytes") or entry.get("path")
