import io
import socket
import struct
import sys
import zlib

import pytest
from PIL import Image

from mgm.errors import run_command
from mgm.serve import cli
from mgm.serve.terminal.chat import TERMINAL_CONTROLS


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the program in this process with lines on its standard input."""

    def run(*arguments, lines=""):
        monkeypatch.setattr(sys, "stdin", None if lines is None else io.StringIO(lines))
        with pytest.raises(SystemExit) as caught:
            run_command(lambda: cli.main([str(argument) for argument in arguments]))
        return caught.value.code, *capsys.readouterr()

    return run


def broken_images(folder):
    """Files that are not valid images, by a part of the error message."""
    files = {}
    whole = io.BytesIO()
    Image.effect_noise((60, 60), 50).save(whole, "PNG")
    for name, content, message in (
        ("cut.png", whole.getvalue()[:-900], "truncated"),
        ("text.png", b"no image at all", "is not an image"),
        ("empty.png", b"", "is empty"),
    ):
        (folder / name).write_bytes(content)
        files[folder / name] = message
    files[folder / "none.png"] = "there is no such file"
    files[folder] = "is a folder"
    return files


def huge_png():
    """A PNG of 20,000 x 10,000 pixels in a small file."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 20_000, 10_000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(20_001) * 4, 9)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "photo.jpg", exif=exif)
    assert cli.open_images(str(tmp_path / "photo.jpg"))[0].size == (40, 60)


def assert_one_line(error, *parts):
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    for part in parts:
        assert str(part) in error


def test_one_answer_line_per_question_line(run, tiny_folder, image_files):
    options = ("--model-path", tiny_folder, "--image-file", image_files[0], "--temperature", 0)
    options += ("--max-new-tokens", 24, "--device", "cpu")
    status, out, error = run(*options, lines="what is this?\n\nsure?")
    assert (status, error) == (0, "")
    assert out.count("\n") == 2
    assert run(*options, lines="what is this?\n")[1] == out.splitlines(keepends=True)[0]
    assert run(*options, lines="sure?\n")[1] == out.splitlines(keepends=True)[1]
    assert run(*options, lines="")[:2] == (0, "")
    assert run(*options, lines=None)[:2] == (0, "")  # closed


def test_any_number_of_lines(run, tiny_folder, image_files):
    options = ("--model-path", tiny_folder, "--image-file", image_files[0], "--temperature", 0)
    status, out, error = run(*options, "--max-new-tokens", 3, lines="what is this?\n" * 60)
    assert (status, error) == (0, "")
    answers = out.splitlines()
    assert len(answers) == 60
    assert len(set(answers)) == 1


def test_error_in_a_line_does_not_affect_others(run, tiny_folder, image_files):
    options = ("--model-path", tiny_folder, "--image-file", image_files[0], "--temperature", 0)
    options += ("--max-new-tokens", 24)
    lines = f"what?\n\n<image> or <image>?\n{'x' * 600}\n<image>\nwhat?\n"
    status, out, error = run(*options, lines=lines)
    assert status == 2
    answers = out.splitlines()
    assert len(answers) == 3
    assert answers[0] == answers[2]
    faults = error.splitlines()
    assert faults[0].startswith("error: line 3: the question has 2 <image> for 1 image;")
    assert faults[1].startswith("error: line 4: the prompt takes ")
    assert len(faults) == 2


def test_debug_output_is_separate(run, tiny_folder, image_files):
    files = ",".join(map(str, image_files))
    options = ("--model-path", tiny_folder, "--max-new-tokens", 5, "--debug")
    status, out, error = run(*options, "--image-file", files, lines="compare\nsure?\n")
    assert status == 0
    assert out.count("\n") == 2
    assert "<image>\\n<image>\\ncompare" in error
    assert "prompt tokens: " in error
    assert "loaded in" in error


def test_text_only_with_another_template(run, tiny_folder):
    options = ("--model-path", tiny_folder, "--max-new-tokens", 3, "--debug")
    status, _, error = run(*options, "--conv-mode", "vicuna_v1", lines="hi\n")
    assert status == 0
    assert "USER: hi ASSISTANT:" in error


def test_broken_images(run, tiny_folder, tmp_path, image_files):
    for file, message in broken_images(tmp_path).items():
        names = f"{image_files[0]},{file}"
        status, out, error = run("--model-path", tiny_folder, "--image-file", names)
        assert (status, out) == (2, "")
        assert_one_line(error, "image 2 of 2", file, message)


def test_gigantic_image(run, tiny_folder, tmp_path):
    file = tmp_path / "huge.png"
    file.write_bytes(huge_png())
    status, _, error = run("--model-path", tiny_folder, "--image-file", file)
    assert status == 2
    assert_one_line(error, "image 1 of 1", file, "178,956,970 pixels")


def test_unreachable_url(run, tiny_folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/cat,small.png"
        status, _, error = run("--model-path", tiny_folder, "--image-file", url)
    assert status == 2
    assert_one_line(error, "image 1 of 1", url, "cannot be reached")


def test_missing_and_unsupported_checkpoints(run, tmp_path):
    missing = tmp_path / "none"
    status, _, error = run("--model-path", missing)
    assert status == 2
    assert_one_line(error, missing, "no such folder")
    status, _, error = run("--model-path", tmp_path)
    assert status == 2
    assert_one_line(error, tmp_path, "config.json")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    status, _, error = run("--model-path", tmp_path)
    assert status == 2
    assert_one_line(error, tmp_path, "'bert'")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ([], ["--model-path"]),
        (["--model-path", ""], ["path is empty"]),
        (["--image-file", ""], ["--image-file is ''"]),
        (["--image-file", " ,"], ["--image-file is ' ,'", "leave it out"]),
        (["--image-file", "a" * 50_000], ["image 1 of 1: aaa", "File name too long"]),
        (["--image-file", "data:image/png;base64," + "A" * 50_000], ["image 1 of 1: data:image"]),
        (["--temperature", "-1"], ["temperature is -1.0"]),
        (["--temperature", "hot"], ["--temperature", "hot"]),
        (["--temperature", "h" * 5000], ["--temperature", "hhh"]),
        (["--max-new-tokens", "0"], ["max_new_tokens is 0"]),
        (["--conv-mode", "nothing"], ["nothing", "vicuna_v1"]),
        (["--device", "tpu"], ["--device", "tpu", "mps"]),
        (["--load-8bit", "--load-4bit"], ["--load-4bit", "choose one"]),
        (["--num-speculative-tokens", "-1"], ["--num-speculative-tokens is -1", "give 0"]),
        (["--ocr"], ["--ocr", "--image-file"]),
        (["--gen", "--gen-model", "playground"], ["playground", "is not a text-to-image pipeline"]),
        pytest.param(  # which waits for the hub
            ["--gen", "--gen-model", "nowhere"],
            ["nowhere", "is not a text-to-image pipeline"],
            marks=pytest.mark.slow,
        ),
        (["--colour"], ["--colour"]),
    ],
)
def test_invalid_options(run, options, parts):
    path = ["--model-path", "nowhere"] if options else []
    status, out, error = run(*path, *options)
    assert (status, out) == (2, "")
    assert_one_line(error, *parts)
    assert len(error) < 500


def test_too_long_prompt(run, tiny_folder):
    status, out, error = run("--model-path", tiny_folder, lines="x" * 600)
    assert (status, out) == (2, "")
    assert_one_line(error, "the prompt takes 604 tokens", "512")


def test_commas_in_file_names(tmp_path):
    odd = tmp_path / "a,b.png"
    odd.touch()
    assert cli.split_sources(str(odd)) == [str(odd)]
    assert cli.split_sources("a.png, b.png,") == ["a.png", "b.png"]
    url = "https://example.org/w_20,h_30/cat.png"
    assert cli.split_sources(url) == [url]
    assert cli.split_sources(f"a.png,{url},{url}") == ["a.png", url, url]
    assert cli.split_sources(f"{url},{tmp_path}") == [url, str(tmp_path)]
    assert cli.split_sources("") == []


def test_commas_in_data_urls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "iVBO").touch()  # the part after the comma
    url = "data:image/png;base64,iVBO"
    assert cli.split_sources(url) == [url]
    assert cli.split_sources(f"a.png,{url},b.png") == ["a.png", url, "b.png"]
    assert cli.split_sources(f"{url},{url}") == [url, url]
    long = url + "R" * 100_000
    assert cli.split_sources(long) == [long]
    assert cli.split_sources("x" * 100_000 + ",b.png") == ["x" * 100_000, "b.png"]


def test_control_characters_are_removed():
    assert "a\x1b[31m\x9b\n\tb\u200d图".translate(TERMINAL_CONTROLS) == "a[31m\n\tb\u200d图"
