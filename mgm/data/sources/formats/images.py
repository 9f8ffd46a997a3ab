"""Parses the images of a record (paths, URLs, base64, bytes, objects) to paths, URLs or bytes."""

import re
import urllib.parse
import urllib.request
from typing import Any

from mgm.data.images.data_url import (
    MAX_PATH,
    MIN_BASE64,
    decode_base64,
    decode_data_url,
    looks_like_base64,
)
from mgm.data.sources.sample import SampleError, is_url, value_kind
from mgm.errors import MGMError

MAX_NAME_CHARACTERS = 255  # maximum characters of a path component on common file systems
_CONTENT_KEYS = ("base64", "data")  # keys of objects, besides `bytes`
NAME_KEYS = ("path", "url", "image_url", "image", "source", "file_path")
BROKEN = "broken image"
_INLINE = re.compile(r"\s*(?:data:|https?://|file://)", re.IGNORECASE)


def read_images(value: Any, field: str, where: str) -> list[str | bytes]:
    """Parse a field of a record with one image or a list of images.

    Args:
        value: value of the field; not empty.
        field: name of the field.
        where: prefix of errors.

    Raises:
        SampleError: a value is not an image, or broken; the message has none of its content.
    """
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not isinstance(value, str | bytes | dict | list | tuple):
        raise SampleError(
            f"{where}: has {value_kind(value)} as {field!r}; expected a path or a list of paths"
        )
    return [
        read_image(one, f"{where}: has", f"as image {number} of {len(values)} in {field!r}")
        for number, one in enumerate(values, start=1)
    ]


def read_image(value: Any, subject: str, which: str) -> str | bytes:
    """Parse one image to its path, its http(s) URL, or the bytes of its file.

    Args:
        value: a path, a data, file or http(s) URL, an image file in base64 or as bytes, or an
            object with one of these, such as the datasets library's `{"bytes": ..., "path": ...}`.
        subject: prefix of errors, and subject of their sentence.
        which: name of the image in errors.

    Raises:
        SampleError: not an image reference, or broken.
    """
    if isinstance(value, str):
        return _from_text(value, subject, which)
    if isinstance(value, bytes):
        if not value:
            raise SampleError(
                f"{subject} no bytes {which}; expected the bytes of an image file", BROKEN
            )
        return value
    if isinstance(value, dict):
        if value.get("bytes") is not None:
            return read_image(value["bytes"], subject, which)
        for key in (*_CONTENT_KEYS, *NAME_KEYS):
            inner = value.get(key)
            if inner is not None and inner != "":
                if key in _CONTENT_KEYS and isinstance(inner, str):
                    return _from_base64(inner, subject, which)
                return read_image(inner, subject, which)
    raise SampleError(f"{subject} {value_kind(value)} {which}; expected a path, a URL or bytes")


def _from_text(text: str, subject: str, which: str) -> str | bytes:
    if len(text) < MIN_BASE64 and ":" not in text and "\0" not in text and text[-1:] not in "/":
        return text  # fast path of most records
    if not text:
        raise SampleError(f"{subject} an empty string {which}; expected a path")
    if _INLINE.match(text):
        text = text.strip()  # URLs contain no spaces; paths may
    scheme = text[:8].lower()
    if scheme.startswith("data:"):
        return _from_data_url(text, subject, which)
    if looks_like_base64(text):
        return _from_base64(text, subject, which)
    if is_url(text):
        return text
    if scheme.startswith("file://"):
        text = _file_url_path(text, subject, which)
    elif "://" in text[:16]:
        raise SampleError(
            f"{subject} a URL of an unsupported scheme {which} ({text:.80}); give an http(s) URL, "
            "or download the image and give its path"
        )
    if text.endswith("/"):
        raise SampleError(f"{subject} a folder {which} ({text:.80}); expected the path of a file")
    problem = "with a NUL character" if "\0" in text else "too long for a path"
    if "\0" in text or len(text) > MAX_PATH or max(map(len, text.split("/"))) > MAX_NAME_CHARACTERS:
        raise SampleError(
            f"{subject} a string of {len(text):,} characters {which}, {problem}, and neither a URL "
            "nor base64; give a path, a URL or base64",
            BROKEN,
        )
    return text


def _file_url_path(text: str, subject: str, which: str) -> str:
    try:
        url = urllib.parse.urlsplit(text)
    except ValueError as error:
        raise SampleError(
            f"{subject} an invalid file URL {which} ({text:.80}); give a path", BROKEN
        ) from error
    if url.netloc.lower() not in ("", "localhost"):
        raise SampleError(
            f"{subject} a file URL of another machine {which} ({text:.80}); give a path, or "
            "file:/// and an absolute path"
        )
    return urllib.request.url2pathname(url.path)


def _from_data_url(text: str, subject: str, which: str) -> bytes:
    try:
        content = decode_data_url(text, "")
    except MGMError as error:
        reason = str(error).removeprefix(": ")
        raise SampleError(f"{subject} a data URL {which} that {reason}", BROKEN) from error
    if not content:
        raise SampleError(
            f"{subject} no bytes {which}; expected the bytes of an image file", BROKEN
        )
    return content


def _from_base64(text: str, subject: str, which: str) -> bytes:
    if text[:5].lower() == "data:":
        try:
            return decode_data_url(text, "")
        except MGMError as error:
            raise SampleError(
                f"{subject} an invalid data URL {which}; encode the file again", BROKEN
            ) from error
    try:
        content = decode_base64(text, "")
    except MGMError as error:
        raise SampleError(
            f"{subject} invalid base64 {which} ({len(text):,} characters); encode the file again",
            BROKEN,
        ) from error
    if not content:
        raise SampleError(
            f"{subject} no bytes {which}; expected the bytes of an image file", BROKEN
        )
    return content
