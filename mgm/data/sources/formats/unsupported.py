"""What changes a sample's meaning and cannot be used: refused by name, and never ignored."""

import re
from collections.abc import Mapping
from typing import Any

from mgm.data.images.extensions import IMAGE_EXTENSIONS
from mgm.data.sources.sample import SampleError
from mgm.data.text.templates import IMAGE_MARKER

UNSUPPORTED = "unsupported"
NO_TOOLS = "conversations with tools cannot be learned; leave the sample out"
TOOL_ROLES = frozenset(
    ("tool", "tools", "function", "function_call", "function_response", "observation", "ipython",
     "tool_call", "tool_response", "tool_result")
)  # fmt: skip

_MEDIA = "holds media, and the model reads images alone; leave the sample out, or give its frames"
_TOOLS = f"holds tools; {NO_TOOLS}"
_PREFERENCE = "holds a preference, and every answer is learned; keep the chosen answers alone"
_WEIGHT = "weighs the sample, and all count alike; remove it, or repeat the sample"
_MEDIA_FILES = ("mp4", "webm", "mkv", "avi", "mov", "wav", "mp3", "flac", "ogg", "opus", "m4a")
_FIELDS = {
    **dict.fromkeys(("video", "videos", "audio", "audios", "video_path", "audio_path"), _MEDIA),
    **dict.fromkeys(("video_url", "audio_url", "video_file", "audio_file", "speech"), _MEDIA),
    **dict.fromkeys(_MEDIA_FILES, _MEDIA),
    **dict.fromkeys(("tools", "functions", "tool_calls"), _TOOLS),
    **dict.fromkeys(("chosen", "rejected", "rejected_response", "rejected_messages"), _PREFERENCE),
    **dict.fromkeys(("rejected_images", "kto_tag"), _PREFERENCE),
    **dict.fromkeys(("loss_weight", "sample_weight"), _WEIGHT),
}
_MESSAGE_FIELDS = {
    **dict.fromkeys(("tool_calls", "function_call", "tool_call_id"), f"is set; {NO_TOOLS}"),
    **dict.fromkeys(
        ("reasoning_content", "reasoning", "thinking", "refusal"),
        "is no part of what is learned; put it into the text, or remove it",
    ),
    **dict.fromkeys(("audio", "video", "videos", "image", "images"),
                    "is not read in a message; make it a part of the content, or an image of the "
                    "sample"),
}  # fmt: skip
_LOSS_FIELDS = ("weight", "loss", "train", "trainable", "loss_mask", "loss_scale")
_NAME = "names who speaks, which templates cannot write; put it into the text"
_OWN_NAMES = ("user", "human", "assistant", "gpt", "system", "")

# Special tokens and elements that stand for an image or other media in texts of other frameworks.
_TAG = re.compile(
    r"<\|/?(?:image|video|audio|vision|img|media)[^|<>\s]{0,40}\|>"
    r"|<img>[^<>\n]{0,4096}</img>"
    r"|(?-i:<image>[^<>\n]{0,200}</image>)"
    r"|</?(?:img_context|imagehere|videohere|image_placeholder|image_soft_token|start_of_image"
    r"|end_of_image|fake_token_around_image|global-img|im_patch|__media__|image_token|image_here"
    r"|video_soft_token|audio_soft_token)>"
    r"|\[img_(?:break|end)\]",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"<(?:image|img|picture|video|audio)[ _-]?\d{1,3}>", re.IGNORECASE)
# These are elements of HTML, or tags of forums, too.
_LOOSE = re.compile(
    r"(?!(?-i:<image>))<(video|audio|img|image|picture|sound|speech|ref-object|bbox)>|\[(img)\]",
    re.IGNORECASE,
)
_ABOUT_MARKUP = re.compile(
    r"`|\b(?:html5?|css|dom|javascript|tags?|elements?|attributes?|markup|browser|xml|bbcode)\b"
    r"|<(?:!doctype|html|head|body|div|p|a|span|source|script|br|ul|li|table)\b",
    re.IGNORECASE,
)
_IMAGE_FIELD = re.compile(
    r"(?:img|imgs|picture|pictures|photo|photos|pixel_values|image_?\d+"
    r"|(?:img|image|images)_?(?:paths?|files?|urls?|names?|b64|base64|bytes|lists?))",
    re.IGNORECASE,
)
_IMAGE_NAME = re.compile(rf"[^\n]{{1,250}}\.(?:{'|'.join(IMAGE_EXTENSIONS)})", re.IGNORECASE)
_IDS = ("id", "__key__", "__url__")


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: null, or a text, list or object in which nothing is.

    Columns of a table are there in every row, and tools are stored as JSON.
    """
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}", "null")
    if isinstance(value, dict):
        return all(map(is_empty, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_empty, value))
    return value is None


def refuse_fields(record: Mapping[str, Any], where: str) -> None:
    """Refuse a record with a field that changes its meaning and cannot be used.

    Raises:
        SampleError: names the field.
    """
    for name in record.keys() & _FIELDS.keys():
        value = record[name]
        usual = value == 1 if _FIELDS[name] is _WEIGHT else value is False and name != "kto_tag"
        if not is_empty(value) and not usual:
            raise SampleError(f"{where}: field {name!r} {_FIELDS[name]}", UNSUPPORTED)


def refuse_message_fields(
    message: Mapping[str, Any], where: str, learned: bool, role: str = "", name: str = ""
) -> None:
    """The same for a message.

    Args:
        message: as it was read.
        where: what errors begin with.
        learned: whether it is an answer.
        role: of the message.
        name: what the record calls that role.

    Raises:
        SampleError: names the field.
    """
    for field in message:
        value = message[field]
        if value is None:
            continue
        if field in _MESSAGE_FIELDS and not is_empty(value):
            raise SampleError(f"{where}: field {field!r} {_MESSAGE_FIELDS[field]}", UNSUPPORTED)
        if field in _LOSS_FIELDS and not is_empty(value):
            # A question is never learned, an answer always.
            usual = value == 1 if learned else value == 0 or field == "weight"
            if not usual:
                raise SampleError(
                    f"{where}: field {field!r} is {value!r:.40}, and all answers are learned and "
                    "no question is; leave the sample out, or divide it",
                    UNSUPPORTED,
                )
        if field == "name" and str(value).lower() not in (*_OWN_NAMES, role, name.lower()):
            raise SampleError(f"{where}: field 'name' {_NAME}", UNSUPPORTED)


def refuse_tags(text: str, where: str, has_markers: bool) -> None:
    """Refuse a question in which a tag of another framework stands for an image or other media.

    Such a tag would be learned as text. Tags that are HTML too count only where a text is not about
    it, and numbered ones only where the sample has no `<image>` marker, or they could refer to it.

    Args:
        text: of the user or the system; what the model says is not looked at.
        where: what errors begin with.
        has_markers: whether the sample has one.

    Raises:
        SampleError: names the tag.
    """
    if text.count("<") == text.count(IMAGE_MARKER) and "[" not in text:
        return  # as nearly all
    found = _TAG.search(text)
    if found is None and not has_markers:
        found = _NUMBERED.search(text)
    if found is None:
        found = _loose_tag(text)
    if found is not None:
        raise SampleError(
            f"{where} holds {found[0]!r:.80}, another framework's tag; write <image> for an "
            "image, and leave out samples with other media",
            UNSUPPORTED,
        )


def _loose_tag(text: str) -> re.Match[str] | None:
    for found in _LOOSE.finditer(text):
        closing = found[0].replace("<", "</").replace("[", "[/")
        if closing.lower() not in text.lower() and not _ABOUT_MARKUP.search(text):
            return found
    return None


def refuse_unread_images(record: Mapping[str, Any], where: str) -> None:
    """Refuse a record without images that has one in a field of a name that is not read.

    Raises:
        SampleError: names the field.
    """
    for name, value in record.items():
        if name in _IDS or is_empty(value):
            continue
        one = value[0] if isinstance(value, list) else value
        named = isinstance(one, str) and (
            one.startswith("data:image/") or _IMAGE_NAME.fullmatch(one) is not None
        )
        held = isinstance(one, dict) and {"bytes", "path"} <= one.keys()
        held = held or isinstance(one, bytes)
        if named or held or _IMAGE_FIELD.fullmatch(name):
            raise SampleError(
                f"{where}: field {name!r} holds an image that is not read; call it 'image' or "
                "'images', with a marker for each, or remove it",
                UNSUPPORTED,
            )
