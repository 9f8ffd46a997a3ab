import base64
import io
import threading
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from mgm.data import images
from mgm.data.images import open_image
from mgm.errors import MGMError


def png_of(size=(30, 20), mode="RGB", kind="PNG"):
    buffer = io.BytesIO()
    Image.effect_noise(size, 50).convert(mode).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def served(tiny, monkeypatch):
    """A local web server that gives the files of the folder of tiny images; its address."""

    monkeypatch.setenv("no_proxy", "*")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tiny)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_every_kind_of_source(tiny, served):
    path = tiny / "red.png"
    content = path.read_bytes()
    data_url = "data:image/png;base64," + base64.b64encode(content).decode()
    for source in (path, str(path), content, data_url, f"{served}/red.png", Image.open(path)):
        image = open_image(source)
        assert (image.mode, image.size) == ("RGB", (20, 10))
        assert image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "I;16"])
def test_every_mode_becomes_rgb(mode):
    assert open_image(png_of(mode=mode)).mode == "RGB"


def test_orientation_stays_as_stored():
    image = Image.new("RGB", (30, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by a quarter
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert open_image(buffer.getvalue()).size == (30, 20)


def fails(source, *parts):
    with pytest.raises(MGMError) as caught:
        open_image(source, "image 2 of sample 7")
    message = str(caught.value)
    assert message.startswith("image 2 of sample 7: ")
    assert "\n" not in message
    assert all(part in message for part in parts), message


def test_files_without_image(tmp_path):
    fails(tmp_path / "none.png", "none.png", "no such file")
    fails(tmp_path, str(tmp_path), "is a folder")
    (tmp_path / "empty.png").touch()
    fails(tmp_path / "empty.png", "is empty")
    (tmp_path / "text.png").write_text("not an image")
    fails(str(tmp_path / "text.png"), "text.png", "is not an image")
    fails(tmp_path / "text.png" / "x", "cannot be read")
    fails("bad\0name", "cannot be read")
    fails(b"", "is empty")
    fails(b"nothing", "7 bytes", "is not an image")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files(tmp_path, kind):
    content = png_of((200, 200), kind=kind)
    path = tmp_path / "cut"
    path.write_bytes(content[: len(content) // 2])
    fails(path, "cut")


def test_truncated_picture_opened_by_others(tmp_path):
    content = png_of((200, 200))
    fails(Image.open(io.BytesIO(content[: len(content) // 2])), "truncated or damaged")


def test_gigantic_image(monkeypatch):
    bomb = b"P5 20000 20000 255\n"  # the head of a picture of 400 million pixels
    fails(bomb, "more than 178,956,970 pixels", "scale it down")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # a limit that others took away
    fails(bomb, "20000 x 20000")


def test_large_image_gives_no_warning(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(png_of((30, 20))).size == (30, 20)


def test_addresses_that_do_not_answer(served, monkeypatch):
    fails(f"{served}/none.png", "404")
    fails("http://127.0.0.1:9/a.png", "http://127.0.0.1:9/a.png", "cannot be reached")
    fails("http://no-such-host.invalid/a.png", "cannot be reached")
    fails("http://[bad/a.png", "cannot be reached")
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    fails(f"{served}/red.png", "larger than")


def test_broken_data_urls():
    fails("data:image/png;base64,@@@", "not a valid data URL")
    fails("data:image/png;base64", "not a valid data URL")
    fails("data:,hello", "is not an image")
    fails("data:image/png;base64," + "A" * 1000, "…")
