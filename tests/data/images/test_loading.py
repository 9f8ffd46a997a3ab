import base64
import io
import socket
import struct
import threading
import time
import warnings
import zlib
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from mgm.data.images import loading as images
from mgm.data.images.loading import open_image
from mgm.errors import MGMError


def png_of(size=(30, 20), mode="RGB", kind="PNG"):
    buffer = io.BytesIO()
    Image.effect_noise(size, 50).convert(mode).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def served(tiny, monkeypatch):
    """A local web server with the folder of tiny images; yields its address."""

    monkeypatch.setenv("no_proxy", "*")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tiny)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_every_source(tiny, served):
    path = tiny / "red.png"
    content = path.read_bytes()
    data_url = "data:image/png;base64," + base64.b64encode(content).decode()
    pixels = np.asarray(Image.open(path))
    file = io.BytesIO(b"before" + content)
    file.seek(6)
    for source in (
        path,
        str(path),
        content,
        bytearray(content),
        memoryview(content),
        file,
        file,  # the file's position is unchanged
        data_url,
        base64.b64encode(content).decode(),
        f"{served}/red.png",
        Image.open(path),
        pixels,
        torch.from_numpy(pixels.copy()).permute(2, 0, 1),
    ):
        image = open_image(source)
        assert (image.mode, image.size) == ("RGB", (20, 10))
        assert image.getpixel((0, 0)) == (255, 0, 0)
    with path.open("rb") as file:
        assert open_image(file).size == (20, 10)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "I;16"])
def test_every_mode_becomes_rgb(mode):
    assert open_image(png_of(mode=mode)).mode == "RGB"


MODES = "1 L P RGB RGBA CMYK YCbCr HSV LA PA RGBX La RGBa LAB I;16 I;16L I;16B"


@pytest.mark.parametrize("mode", MODES.split())
def test_every_mode_of_pillow_becomes_rgb(mode):
    image = open_image(Image.new(mode, (5, 4)))
    assert (image.mode, image.size) == ("RGB", (5, 4))


def test_transparent_pixels_keep_their_colour():
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    for source in (image, np.asarray(image), np.asarray(image).transpose(2, 0, 1)):
        assert open_image(source).getpixel((0, 0)) == (10, 20, 30)


def test_palette_with_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes([0, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = np.asarray(open_image(buffer.getvalue()))
    assert seen.tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_16_bit_images():
    levels = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    seen = np.asarray(open_image(buffer.getvalue()))
    assert seen.tolist() == [[[level] * 3 for level in (0, 0, 1, 128, 255)]]


@pytest.mark.parametrize("maximum", [511, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize("kind", ["P5", "P2"])
def test_pgm_maximum(maximum, kind):
    levels = np.array([0, maximum // 2, maximum], ">u2")
    body = levels.tobytes() if kind == "P5" else b" ".join(b"%d" % level for level in levels)
    seen = np.asarray(open_image(b"%s 3 1 %d\n%s" % (kind.encode(), maximum, body)))
    assert seen[0, :, 0].tolist() == [0, 127, 255]


def tiff_of(size, bits, strip, **tags):
    """A grey TIFF file without compression."""
    width, height = size
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 0, 277: 1, 278: height}
    entries |= {279: len(strip)} | {int(name[1:]): value for name, value in tags.items()}
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    head = struct.pack("<4sIH", b"II*\0", 8, len(entries))
    body = b"".join(struct.pack("<HHII", tag, 4, 1, entries[tag]) for tag in sorted(entries))
    return head + body + bytes(4) + strip


def test_12_bit_images():
    # Two samples in three bytes: 4095 and 2048.
    seen = np.asarray(open_image(tiff_of((2, 1), 12, bytes([0xFF, 0xF8, 0x00]))))
    assert seen[0, :, 0].tolist() == [255, 128]
    white = Image.open(io.BytesIO(tiff_of((2, 1), 12, b"\xff" * 3)))
    assert open_image(white).getextrema() == ((255, 255),) * 3


@pytest.mark.parametrize("mode", ["I", "F"])
def test_float_and_signed_images(mode):
    fails(Image.new(mode, (4, 4)), "7: has signed, floating", f"mode {mode})", "with 8 bits")


def message_of(source):
    with pytest.raises(MGMError) as caught:
        open_image(source, "image 2 of sample 7")
    return str(caught.value)


def fails(source, *parts):
    message = message_of(source)
    assert message.startswith("image 2 of sample 7: ")
    assert "\n" not in message
    assert all(part in message for part in parts), message


def test_files_without_an_image(tmp_path):
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
    fails("ftp://host/a.png", "is not an http(s) or data URL", "save it")
    fails("file:///a.png", "is not an http(s) or data URL", "give only the path")
    fails("a" * 10_000, "aaa…: cannot be read (File name too long)")
    assert len(message_of("a" * 10_000)) < 250


def test_unsupported_sources():
    for source, kind in ((None, "NoneType"), (7, "int"), (["a"], "list")):
        fails(source, f"is of type {kind}; give a path, ", "a Pillow image, a numpy array")
    fails(io.StringIO("text"), "opened as text", "'rb'")
    closed = io.BytesIO(b"a")
    closed.close()
    fails(closed, "cannot be read")
    fails(Image.new("RGB", (0, 5)), "is 0 x 5, has no pixels")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files(tmp_path, kind):
    content = png_of((200, 200), kind=kind)
    path = tmp_path / "cut"
    path.write_bytes(content[: len(content) // 2])
    fails(path, "cut")


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("share", [0.5, 0.999])
def test_truncated_compressed_tiff(compression, share):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "TIFF", compression=compression)
    content = buffer.getvalue()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fails(content[: int(share * len(content))], "truncated or damaged")


def test_truncated_image_opened_by_the_caller(tmp_path):
    content = png_of((200, 200))
    fails(Image.open(io.BytesIO(content[: len(content) // 2])), "truncated or damaged")


def test_gigantic_image(monkeypatch):
    bomb = b"P5 20000 20000 255\n"  # the header of an image of 400 million pixels
    fails(bomb, "has 400,000,000 pixels, more than 178,956,970 pixels", "scale it down")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # Pillow's limit, which users may remove
    fails(bomb, "20000 x 20000")


def test_extreme_aspect_ratio():
    fails(Image.new("L", (1, 1_000_001)), "is 1 x 1000001, longer than 1,000,000 pixels")


def test_out_of_memory(monkeypatch):
    def full(*args):
        raise MemoryError

    image = Image.new("L", (30, 20))
    monkeypatch.setattr(image, "convert", full)
    fails(image, "is 30 x 20, more than fits into memory; scale it down")


@pytest.mark.parametrize(
    "fault",
    [
        KeyError(6),
        NotImplementedError("Unimplemented DXGI format 93"),
        Image.DecompressionBombError("Image size (400000000 pixels) exceeds limit"),
        struct.error("unpack requires 4 bytes"),
        RuntimeError("decoder"),
        AttributeError("tell"),
        AssertionError(),
        RecursionError(),
    ],
)
def test_any_error_of_a_decoder_is_one_line(monkeypatch, fault):
    def raise_it(*_):
        raise fault

    fails_with = type(fault).__name__ if not str(fault) else str(fault)[:6]
    image = Image.open(io.BytesIO(png_of()))
    monkeypatch.setattr(type(image), "load", raise_it)
    fails(image, fails_with if "Bomb" not in type(fault).__name__ else "400,000,000 pixels")
    fails(png_of())
    monkeypatch.undo()
    monkeypatch.setattr(Image, "open", raise_it)
    fails(png_of())


def test_large_image_without_a_warning(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(png_of((30, 20))).size == (30, 20)


def test_endless_files(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 2**10)
    (tmp_path / "large.png").write_bytes(bytes(2**10 + 1))
    fails(tmp_path / "large.png", "is larger than")
    fails("/dev/zero", "is larger than")


def test_unreachable_urls(served, monkeypatch):
    fails(f"{served}/none.png", "404")
    fails("http://127.0.0.1:9/a.png", "http://127.0.0.1:9/a.png", "cannot be reached")
    fails("http://no-such-host.invalid/a.png", "cannot be reached")
    fails("http://[bad/a.png", "cannot be reached")
    fails("http://a b/c.png", "cannot be reached")
    fails("http://bücher.invalid/a.png", "cannot be reached")
    monkeypatch.setattr(images, "MAX_DOWNLOAD_BYTES", 10)
    fails(f"{served}/red.png", "larger than")


def test_urls_with_spaces_and_unicode(served, tiny):
    (tiny / "red.png").rename(tiny / "rötes Bild, 1.png")
    assert open_image(f"{served}/rötes Bild, 1.png?für=mich#oben").size == (20, 10)
    assert open_image(f"{served}/r%C3%B6tes%20Bild,%201.png").size == (20, 10)


@pytest.mark.parametrize("reply", [b"nothing that a web server says\r\n\r\n", b""])
def test_servers_that_do_not_speak_http(monkeypatch, reply):
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(reply)

        threading.Thread(target=answer, daemon=True).start()
        fails(f"http://127.0.0.1:{server.getsockname()[1]}/a.png", "cannot be reached")


@pytest.mark.parametrize(
    ("head", "message"),
    [(b"", "timed out after 0 s"), (b"Content-Length: 9\r\n", "cannot be reached")],
)
def test_slow_and_stalled_servers(monkeypatch, head, message):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(images, "MAX_DOWNLOAD_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection, suppress(OSError):  # the client may have disconnected
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
                for _ in range(8):  # a byte now and then resets a read time-out
                    connection.sendall(b"a")
                    time.sleep(0 if head else 0.05)

        threading.Thread(target=answer, daemon=True).start()
        fails(f"http://127.0.0.1:{server.getsockname()[1]}/a.png", message)


@pytest.mark.parametrize("palette", [None, b"", b"\1\2"])
def test_png_without_palette(palette):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    content = buffer.getvalue()
    begin = content.index(b"PLTE") - 4
    end = content.index(b"IDAT") - 4
    assert open_image(content).getpixel((0, 0)) == (10, 20, 30)
    chunk = b"" if palette is None else b"PLTE" + palette
    if chunk:
        chunk = struct.pack(">I", len(palette)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with pytest.raises(MGMError, match=r"truncated or damaged \(it has no palette\)"):
        open_image(content[:begin] + chunk + content[end:])


def test_endless_file_is_reported_once(monkeypatch):
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 1000)
    assert message_of("/dev/zero").count("/dev/zero") == 1
