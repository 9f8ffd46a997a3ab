"""Image references in every form; errors name the image, and do not quote its content."""

import base64
import io

import pytest
from PIL import Image

from mgm.data.images.data_url import looks_like_base64
from mgm.data.images.extensions import IMAGE_EXTENSIONS
from mgm.data.sources.formats.record import parse_sample
from mgm.data.sources.sample import SampleError
from tests.data.images.written_formats import skip_unless_written

TALK = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a cat"}]


def encoded(form: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, form)
    return file.getvalue()


def read(image):
    (image_read,) = parse_sample({"image": image, "conversations": TALK}, "f: sample 1").images
    return image_read


@pytest.mark.parametrize(
    "form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "ICO", "JPEG2000"]
)
def test_base64_of_every_kind_of_image(form):
    skip_unless_written(form)
    content = encoded(form)
    text = base64.b64encode(content).decode()
    assert read(text) == content
    assert read(base64.urlsafe_b64encode(content).decode().rstrip("=")) == content
    assert read(f"data:image/x;base64,{text}") == content
    assert read({"bytes": content, "path": "a.png"}) == content
    assert read({"bytes": None, "path": text}) == content
    assert read(content) == content


@pytest.mark.parametrize(
    "name",
    ["a.png", "x/y z.jpg", "/abs/a.png", "a" * 200 + ".jpg", "9j/4AAQ", "coco/" + "0" * 60,
     "a/" * 200 + "b", "http://a.b/c.jpg?d=e", "HTTPS://a.b/c", "Ünï.png"],
)  # fmt: skip
def test_file_names(name):
    assert read(name) == name
    assert not looks_like_base64(name)


def test_file_urls_are_paths():
    assert read("file:///a/b%20c.png") == "/a/b c.png"
    assert read("FILE://localhost/a.png") == "/a.png"


@pytest.mark.parametrize("blanks", [" ", "\n", "\t "])
def test_whitespace_around_urls(blanks):
    url = f"data:image/png;base64,{base64.b64encode(encoded('PNG')).decode()}"
    assert read(f"{blanks}{url}{blanks}") == encoded("PNG")
    assert read(f"{blanks}https://a.b/c.png{blanks}") == "https://a.b/c.png"
    assert read(f"{blanks}file:///a/b.png") == "/a/b.png"
    assert read(" a.png") == " a.png"
    talk = [{"from": "human", "value": "what?"}, TALK[1]]
    with pytest.raises(SampleError, match="field 'thing' has an image that is not"):
        parse_sample({"conversations": talk, "thing": f" {url}"}, "")


PNG = base64.b64encode(encoded("PNG") * 40).decode()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (PNG[:300] + "!" + PNG[300:], "invalid base64 as image 1 of 1 in 'image'"),
        (PNG[:301], "invalid base64"),
        ("data:image/png;base64," + PNG[:301] + "é", "a data URL as image 1 of 1"),
        ("data:image/png", "a data URL as image 1 of 1 in 'image' that is not a valid data URL"),
        ("data:image/png;base64,", "no bytes as image 1"),
        ({"base64": "???"}, "invalid base64"),
        ("é" + PNG, "a string of"),
        ("a\0b.png", "a NUL character"),
        ("file://[x", "an invalid file URL as image 1 of 1"),
        ("file://[x/a.png", "an invalid file URL"),
        ("file://host/a.png", "a file URL of another machine as image 1 of 1"),
        ("a.png/", "a folder as image 1 of 1"),
        ("s3://bucket/a.png", "a URL of an unsupported scheme"),
        (b"", "no bytes"),
        ({"height": 3}, "an object as image 1"),
        ([["a.png"]], "a list as image 1"),
        (3, "a number as 'image'"),
    ],
)
def test_errors(image, words):
    with pytest.raises(SampleError, match=r"^f: sample 1: has ") as caught:
        read(image)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


def test_image_and_images():
    same = {"image": "a.png", "images": ["a.png"], "conversations": TALK}
    assert parse_sample(same, "").images == ("a.png",)
    with pytest.raises(SampleError, match="'image' and 'images' differ"):
        parse_sample(same | {"images": ["b.png"]}, "")


def test_tar_members_of_every_image_format():
    for ending in ("jpg", "JPEG", "0.image.png", "avif", "jp2", "ico", "tiff", "ppm", "heic"):
        record = {"conversations": TALK, ending: b"content"}
        assert parse_sample(record, "").images == (b"content",)
    assert {"png", "webp", "qoi", "tga", "svg", "jxl"} <= set(IMAGE_EXTENSIONS)
    assert not {"json", "txt", "cls", "mp4", "npy"} & set(IMAGE_EXTENSIONS)


def test_conflicting_parts_and_lists():
    def sample(*parts, **more):
        content = [*parts, {"type": "text", "text": "what?"}]
        talk = [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}]
        return parse_sample({"messages": talk} | more, "f: sample 1")

    with_name, without_name = {"type": "image", "image": "a.png"}, {"type": "image"}
    assert sample(with_name, images=["a.png"]).images == ("a.png",)
    assert sample(with_name, images=[b"content"]).images == (b"content",)  # the file of that name
    assert sample(with_name, without_name, images=["b.png"]).images == ("a.png", "b.png")
    with pytest.raises(SampleError, match="in its messages and in field 'images' differ"):
        sample(with_name, images=["b.png"])
    with pytest.raises(SampleError, match="2 <image> markers but 1 image in field 'images'"):
        sample(without_name, without_name, images=["b.png"])
    with pytest.raises(SampleError, match="1 image part without a source but 0 images"):
        sample(with_name, without_name)
    with pytest.raises(SampleError, match=r"indices \[0, 0\]"):
        sample(without_name | {"index": 0}, without_name | {"index": 0}, images=["a", "b"])
