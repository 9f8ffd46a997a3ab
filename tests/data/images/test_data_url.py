import base64
import io
import urllib.parse

import pytest
from PIL import Image

from mgm.data.images.data_url import decode_base64, decode_data_url
from mgm.data.images.loading import open_image
from mgm.errors import MGMError


def png():
    file = io.BytesIO()
    Image.effect_noise((9, 7), 90).save(file, "PNG")
    return file.getvalue()


CONTENT = png()
TEXT = base64.b64encode(CONTENT).decode()
URL_TEXT = base64.urlsafe_b64encode(CONTENT).decode()


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{TEXT}",
        f"DATA:IMAGE/PNG;BASE64,{TEXT}",
        f"  data:image/png;base64,{TEXT}\n",
        f"data:image/png;charset=utf-8;base64,{TEXT}",
        f"data:;base64,{TEXT}",
        f"data:application/octet-stream; base64 ,{TEXT}",
        f"data:image/png;name=a.png;base64,{TEXT.rstrip('=')}",
        f"data:image/png;base64,{URL_TEXT}",
        f"data:image/png;base64,{URL_TEXT.rstrip('=')}",
        f"data:image/png;base64,{urllib.parse.quote(TEXT, safe='')}",
        "data:image/png;base64," + "\r\n".join(TEXT[i : i + 76] for i in range(0, len(TEXT), 76)),
        f"data:image/png;base64,{TEXT}#fragment",
        f"data:image/png,{urllib.parse.quote(CONTENT)}",
        f"data:,{urllib.parse.quote(CONTENT)}",
    ],
)
def test_data_urls(url):
    assert decode_data_url(url, "image") == CONTENT
    assert open_image(url).size == (9, 7)


@pytest.mark.parametrize("text", [TEXT, URL_TEXT, TEXT.rstrip("="), f" {TEXT[:50]}\n{TEXT[50:]} "])
def test_bare_base64(text):
    assert decode_base64(text, "image") == CONTENT
    assert open_image(text).size == (9, 7)


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,@@@",
        "data:image/png;base64",
        "data:image/png;base64,A",
        "data:image/png;base64,QUJD=QUJD",
        "data:image/png;base64,ÄÖÜ",
        "data:image/png,\ud800",
        "http://host/a.png",
    ],
)
def test_invalid_data_urls(url):
    with pytest.raises(MGMError, match=r"^image 1: .*is not a valid data URL"):
        decode_data_url(url, "image 1")


def test_base64_of_other_content():
    with pytest.raises(MGMError, match=r"^image 1: is not base64"):
        decode_base64("no base64!", "image 1")
    for text in ("a" * 10_000, "image/" * 20, base64.b64encode(bytes(100)).decode()):
        with pytest.raises(MGMError, match=r"cannot be read|no such file"):  # it may be a path
            open_image(text)


def test_size_limit():
    for url in (f"data:;base64,{TEXT}", f"data:,{urllib.parse.quote(CONTENT)}"):
        assert decode_data_url(url, "image", len(CONTENT)) == CONTENT
        with pytest.raises(MGMError, match=r"^image 1: is larger than"):
            decode_data_url(url, "image 1", len(CONTENT) - 9)
    with pytest.raises(MGMError, match="is larger than"):
        decode_base64(TEXT, "image", len(CONTENT) - 9)


def test_data_urls_of_other_types():
    for url, message in (
        ("data:,hello", "is not an image"),
        ("data:image/png;base64,", "is empty"),
        ("data:image/png;base64," + "A" * 1000, "…"),
    ):
        with pytest.raises(MGMError, match=message):
            open_image(url)
