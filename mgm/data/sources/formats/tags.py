"""Tags of other frameworks that stand for media in a text: refused, or they are learned as text.

Conversations about HTML, XML, JSX and chat templates hold the same tags, and are to be learned. So
a tag counts only where it stands as a placeholder does: alone on a line, or as the first thing
of the first question, and not where the text closes it.
"""

import re
from collections.abc import Mapping
from typing import Any

from mgm.data.images.extensions import IMAGE_EXTENSIONS
from mgm.data.sources.formats.unsupported import MEDIA_ENDINGS, UNSUPPORTED, is_empty
from mgm.data.sources.sample import SampleError
from mgm.data.text.templates import IMAGE_MARKER

_SPECIAL = (
    r"<\|/?(?:image|video|audio|vision|img|media)[^|<>\s]{0,40}\|>"
    r"|(?:<img>)?<(?:img_context|imagehere)>(?:</img>)?"
    r"|<(?:videohere|image_placeholder|image_soft_token|start_of_image"
    r"|end_of_image|fake_token_around_image|global-img|im_patch|__media__|image_token|image_here"
    r"|video_soft_token|audio_soft_token)>|\[img_(?:break|end)\]"
)
_NUMBERED = r"<(?:image|img|picture|video|audio)[ _-]?\d{1,3}>"
_LOOSE = r"(?-i:<(?:video|VIDEO|audio|AUDIO|speech|Image|IMAGE)>|\[IMG\])"
_TAG = f"(?:{_SPECIAL}|{_NUMBERED}|{_LOOSE})"
_IS_NUMBERED = re.compile(_NUMBERED, re.IGNORECASE)
# A loose tag that begins a text about markup has a word of the same sentence after it.
_BEGINS = re.compile(
    rf"\s*(?:(?-i:{IMAGE_MARKER})\s*)*({_SPECIAL}|{_NUMBERED}|{_LOOSE}"
    rf"(?=\s*(?:\Z|{IMAGE_MARKER}|{_LOOSE})|[^\S\n]*\n|[^\W\d_]| (?-i:[A-Z][a-z])))",
    re.IGNORECASE,
)
_ALONE = re.compile(
    rf"^[ \t]*({_TAG})(?:[ \t]*{_TAG})*[ \t\r]*$",
    re.IGNORECASE | re.MULTILINE,
)
_CLOSING = re.compile(r"[<\[]/([^<>\[\]\n]{1,40})[>\]]")

_ENDINGS = "|".join((*MEDIA_ENDINGS, *IMAGE_EXTENSIONS))
_FILE = rf"[^<>\n]{{1,1000}}\.(?:{_ENDINGS})\s*"
_PAIR = re.compile(
    rf"^[ \t]*(?:\w{{1,20}}[ -]?\d{{0,3}}: ?)?<img>{_FILE}</img>"  # "Picture 1: <img>...</img>"
    rf"|<(audio|video)>{_FILE}</\1>"
    rf"|(?-i:{IMAGE_MARKER}[^<>\n]{{0,200}}</image>)",
    re.IGNORECASE | re.MULTILINE,
)
# Small ones are icons in the code of a page.
_DATA_URL = re.compile(
    r"(?:^|!\[[^\]\n]{0,200}\]\()[ \t]*data:image/[^,\s]{1,60},[^)\s]{64}"
    r"|data:image/[^,\s]{1,60},[A-Za-z0-9+/=%]{1000}",
    re.IGNORECASE | re.MULTILINE,
)
_GROUNDING = ("<bbox>", "<ref-object>")


def refuse_tags(text: str, where: str, has_markers: bool, is_first: bool = True) -> None:
    """Refuse a question in which a tag of another framework stands for an image or other media.

    Args:
        text: of the user or the system; what the model says is not looked at.
        where: what errors begin with.
        has_markers: whether the sample has an `<image>` marker; numbered tags refer to it then.
        is_first: whether it is the first question, or the system text.

    Raises:
        SampleError: names the tag.
    """
    if "[" not in text and "data:" not in text and text.count("<") == text.count(IMAGE_MARKER):
        return  # as nearly all
    if "data:" in text and (found := _DATA_URL.search(text)):
        raise SampleError(
            f"{where} holds an image as a data URL in its text ({found[0]!r:.60}); put it into "
            "'image', and <image> into the text",
            UNSUPPORTED,
        )
    if "<" not in text and "[IMG" not in text:
        return
    tag = _placeholder(text.partition("```")[0], has_markers, is_first)
    if tag is not None:
        raise SampleError(
            f"{where} holds {tag!r:.80}, another framework's tag; write <image> for an image, and "
            "leave out samples with other media",
            UNSUPPORTED,
        )


def _placeholder(text: str, has_markers: bool, is_first: bool) -> str | None:
    if "</" in text and (pair := _PAIR.search(text)):
        return pair[0].strip()
    begins = _BEGINS.match(text) if is_first else None
    tags = [found[1] for found in (begins, *_ALONE.finditer(text)) if found]
    if not tags:
        return None
    closed = {name.lower() for name in _CLOSING.findall(text)}
    for tag in tags:
        refers = has_markers and _IS_NUMBERED.fullmatch(tag)
        if not refers and tag[1:-1].lower() not in closed:
            return tag
    return None


def refuse_grounding(record: Mapping[str, Any], texts: list[str], where: str) -> None:
    """Refuse placeholders that `objects` of the record fill, as ms-swift writes them.

    Raises:
        SampleError: names the placeholder.
    """
    if is_empty(record.get("objects")):
        return
    for tag in _GROUNDING:
        if any(tag in text for text in texts):
            raise SampleError(
                f"{where}: field 'objects' holds what {tag!r} stands for, and it is not filled in; "
                "write it into the text",
                UNSUPPORTED,
            )
