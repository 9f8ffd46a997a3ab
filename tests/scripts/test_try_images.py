"""The script that tries to open all images of a folder."""

import io

import pytest
from PIL import Image

from mgm.errors import MGMError
from scripts import try_images


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    Image.new("L", (30, 20)).save(tmp_path / "deep" / "b.jpg")
    Image.new("L", (30, 20)).save(tmp_path / "c.pgm")
    whole = io.BytesIO()
    Image.effect_noise((60, 60), 50).save(whole, "PNG")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:-900])
    for name in ("x.txt", "y.txt"):
        (tmp_path / name).write_text(name)
    return tmp_path


def test_results_of_each_file(folder, capsys):
    assert try_images.main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("6 files: 3 decoded, 3 refused, 0 raised\n")
    for line in ("1  PNG RGB", "1  JPEG L", "1  PPM L", "2  is not an image that Pillow knows"):
        assert line in out
    assert "(such as cut.png)" in out
    assert "peak memory" in out


def test_network_limits(folder):
    outcome = try_images.try_file(folder / "c.pgm", network=True)
    assert (outcome.kind, outcome.seconds >= 0) == ("refused", True)
    assert "is not an image of these formats" in outcome.text


def test_unexpected_exceptions(folder, monkeypatch):
    def fault(*_):
        raise KeyError(6)

    monkeypatch.setattr(try_images, "read_image_header", fault)
    result = try_images.try_file(folder / "a.png")
    assert (result.kind, result.text) == ("raised", "KeyError: 6")
    assert f"{folder / 'a.png'}: KeyError: 6" in try_images.summary([result], folder)


def test_invalid_options(tmp_path):
    for words, message in (
        ([str(tmp_path / "none")], "is not a folder"),
        ([str(tmp_path)], "has no files"),
        ([str(tmp_path), "--workers", "0"], "give a number from 1"),
    ):
        with pytest.raises(MGMError, match=message):
            try_images.main(words)
