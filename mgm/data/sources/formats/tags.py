"""Refuses texts with media placeholders of other frameworks (`<image 1>`, `<|video|>`).

Conversations about HTML, XML, JSX and chat templates contain the same tags and are valid. So a tag
is a placeholder only if the text does not close it, and if it is alone on a line, or at the start
or end of a question. Special tokens of models, and `<image 1>`, are placeholders anywhere in a
question that is not about markup.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mgm.data.images.extensions import IMAGE_EXTENSIONS
from mgm.data.sources.formats.unsupported import MEDIA_ENDINGS, UNSUPPORTED_KIND, is_empty
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
# In a text about markup, a loose tag at the start is followed by a word of the same sentence.
_BEGINS = re.compile(
    rf"\s*(?:(?-i:{IMAGE_MARKER})\s*)*({_SPECIAL}|{_NUMBERED}|{_LOOSE}"
    rf"(?=\s*(?:\Z|{IMAGE_MARKER}|{_LOOSE})|[^\S\n]*\n|[^\W\d_]| (?-i:[A-Z][a-z])))",
    re.IGNORECASE,
)
_ALONE = re.compile(
    rf"^[ \t]*({_TAG})(?:[ \t]*{_TAG})*[ \t\r]*$",
    re.IGNORECASE | re.MULTILINE,
)
# In later questions, a tag that no sentence follows is more often a reply about markup.
_BEGINS_LATER = re.compile(
    rf"\s*(?:(?-i:{IMAGE_MARKER})\s*)*({_TAG})(?=\s?(?-i:[A-Z][a-z]))", re.IGNORECASE
)
_ENDS_SENTENCE = re.compile(
    rf"\w[.?!:\u3002\uff1f\uff01\uff1a][ \t]*({_LOOSE})(?:[ \t]*{_LOOSE})*[ \t\r]*$", re.MULTILINE
)
_LAST = re.compile(rf"(\w+)[ \t]+({_LOOSE})(?:[ \t]*{_LOOSE})*\Z")
_TAIL = 200  # characters at the end that are searched for tags
_INSIDE = re.compile(
    rf"(?<![`'\"])({_SPECIAL}|(?-i:<image \d{{1,3}}>)"
    r"|<(?:image|img|picture|video|audio)[_-]\d{1,3}>(?=[.?!\s]*\Z))",
    re.IGNORECASE,
)
# Words in questions about markup and chat templates, and words whose phrase a tag completes.
_ABOUT = re.compile(
    r"\b(?:html5?|xml|xslt|jsx|tsx|css|svg|dom|ssml|markdown|tags?|tokens?|tokeni[sz]\w*|templates?"
    r"|placeholders?|prompts?|elements?|attributes?|components?|react|next\.js|vue|regex\w*|syntax"
    r"|means?|explain|special|parse\w*|strings?|code|llama|qwen|phi|internvl|gemma|llava|docx)\b",
    re.IGNORECASE,
)
_NEEDS_A_NAME = re.compile(
    r"an?|the|this|that|my|your|each|every|no|of|to|in|into|on|with|without|from|for|by|than|and|or"
    r"|vs|as|at|like|us(?:e|es|ing)|inside|between|through|is|are|has|have|wrap",
    re.IGNORECASE,
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
# Shorter ones are icons in HTML code.
_DATA_URL = re.compile(
    r"(?:^|!\[[^\]\n]{0,200}\]\()[ \t]*data:image/[^,\s]{1,60},[^)\s]{64}"
    r"|data:image/[^,\s]{1,60},[A-Za-z0-9+/=%]{1000}",
    re.IGNORECASE | re.MULTILINE,
)
_GROUNDING = ("<bbox>", "<ref-object>")


def refuse_tags(
    text: str, where: str, has_markers: bool, earlier: Sequence[str] | None = ()
) -> None:
    """Refuse a question with a media placeholder of another framework.

    Args:
        text: question or system prompt; answers are not checked.
        where: prefix of errors.
        has_markers: whether the sample has `<image>` markers, to which numbered tags then refer.
        earlier: earlier questions; None: `text` is the system prompt, which may explain tags.

    Raises:
        SampleError: names the tag.
    """
    if "[" not in text and "data:" not in text and text.count("<") == text.count(IMAGE_MARKER):
        return  # fast path of most texts
    if "data:" in text and (match := _DATA_URL.search(text)):
        raise SampleError(
            f"{where} contains an image as a data URL ({match[0]!r:.60}); move it to 'image', and "
            "write <image> in the text",
            UNSUPPORTED_KIND,
        )
    if "<" not in text and "[IMG" not in text:
        return
    tag = _placeholder(text.partition("```")[0], has_markers, earlier)
    if tag is not None:
        raise SampleError(
            f"{where} contains {tag!r:.80}, a placeholder of another framework; write <image> for "
            "an image, and remove samples with other media",
            UNSUPPORTED_KIND,
        )


def _placeholder(text: str, has_markers: bool, earlier: Sequence[str] | None) -> str | None:
    if "</" in text and (pair := _PAIR.search(text)):
        return pair[0].strip()
    tags = [match[1] for match in _ALONE.finditer(text)]
    if not earlier and (begins := _BEGINS.match(text)):
        tags.insert(0, begins[1])
    if earlier is not None and not any(map(_ABOUT.search, (*earlier, text))):
        tags += _within(text, is_first=not earlier)
    if not tags:
        return None
    closed = {name.lower() for name in _CLOSING.findall(text)}
    for tag in tags:
        refers = has_markers and _IS_NUMBERED.fullmatch(tag)
        if not refers and tag[1:-1].lower() not in closed:
            return tag
    return None


def _within(text: str, is_first: bool) -> list[str]:
    """Tags that are placeholders anywhere in a text that is not about markup."""
    tags = [match[1] for match in (*_INSIDE.finditer(text), *_ENDS_SENTENCE.finditer(text))]
    if not is_first and (begins := _BEGINS_LATER.match(text)):
        tags.append(begins[1])
    last = _LAST.search(text.rstrip()[-_TAIL:])
    if last and not _NEEDS_A_NAME.fullmatch(last[1]):
        tags.append(last[2])
    return tags


def refuse_grounding(record: Mapping[str, Any], texts: list[str], where: str) -> None:
    """Refuse ms-swift's placeholders that are filled from `objects` of the record.

    Raises:
        SampleError: names the placeholder.
    """
    if is_empty(record.get("objects")):
        return
    for tag in _GROUNDING:
        if any(tag in text for text in texts):
            raise SampleError(
                f"{where}: {tag!r} in its text refers to field 'objects', which is not supported; "
                "write the text of the object instead",
                UNSUPPORTED_KIND,
            )
