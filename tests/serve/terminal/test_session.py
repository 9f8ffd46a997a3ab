"""Slash commands of a chat session, OCR and image generation."""

import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import mgm
from mgm import MGMError, Request
from mgm.data.sources.json.json_file import read_samples
from mgm.serve.cli import open_images
from mgm.serve.terminal.session import Session
from mgm.serve.tools.image_generation import ImageGenerator, image_prompt
from mgm.serve.tools.ocr import load_ocr, ocr_prompt

SETTINGS = Request("", max_new_tokens=8)


@pytest.fixture
def session(tiny_folder, image_files):
    reports: list[str] = []
    engine = mgm.load(tiny_folder, device="cpu")
    names = ",".join(map(str, image_files))
    made = Session(engine, SETTINGS, reports.append, open_images, open_images(names), names)
    made.reports = reports
    return made


def ask(session: Session, question: str) -> str:
    return "".join(session.ask(question))


def test_commands(session, image_files, tmp_path):
    assert session.command("what?") is None
    first = ask(session, "what?")
    ((_, text),) = session.chat.history  # `first` lacks control characters
    assert "/image FILES" in session.command("/help")
    assert session.command(f"/save {tmp_path / 'chat.json'}").startswith("saved")
    # The saved conversation is valid training data.
    (sample,) = read_samples(tmp_path / "chat.json").values()
    assert sample.images == tuple(map(str, image_files))
    assert sample.turns == (("<image>\n<image>\nwhat?", text),)
    session.command("/reset")
    assert session.chat.history == []
    assert ask(session, "what?") == first
    session.command(f"/image {image_files[1]}")
    assert len(session.images) == 1
    assert session.chat.history == []
    ask(session, "and this?")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("/nothing", "is not a command"),
        ("/save", "give a file name"),
        ("/save /dev/null/chat.json", "could not be written"),
        ("/image nowhere.png", "there is no such file"),
        ("/image", "names no image"),
    ],
)
def test_invalid_commands(session, line, text):
    ask(session, "what?")
    with pytest.raises(MGMError, match=text):
        session.command(line)
    assert len(session.chat.history) == 1  # the history is unchanged


@pytest.mark.slow
def test_ocr(session):
    pytest.importorskip("rapidocr")
    image = Image.new("RGB", (500, 120), "white")
    font = ImageFont.load_default(60)
    ImageDraw.Draw(image).text((20, 20), "Total 18.50", "black", font)
    session.ocr = load_ocr()
    session.images = [image]
    session.reset()
    (report,) = session.reports
    texts = report.removeprefix("OCR Token: ")
    assert texts.replace(",", "") == "Total 18.50"
    ask(session, "how much?")
    assert session.chat.history[0][0] == f"how much?\nReference OCR Token: {texts}\n"
    session.images = [Image.new("RGB", (50, 50))]
    session.reset()
    ask(session, "and here?")
    assert session.chat.history[0][0] == "and here?"
    assert ocr_prompt([]) == ""


def test_missing_ocr_package(monkeypatch):
    monkeypatch.setattr("mgm.serve.tools.ocr.find_spec", lambda _: None)
    with pytest.raises(MGMError, match=r"pip install -e '\.\[ocr\]'"):
        load_ocr()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("<h>a cat</h>", "a cat"),
        ("Here: <h> one </h> and <h>two</h> more", "two"),
        ("<h>a <h>b</h>", "b"),
        ("<h>a", None),
        ("a</h>", None),
        ("<h> </h>", None),
        ("", None),
    ],
)
def test_image_prompt(answer, text):
    assert image_prompt(answer) == text


def test_image_generation(session, pipeline, tmp_path, monkeypatch):
    session.generator = ImageGenerator(str(pipeline), "cpu", steps=2)
    session.output, session.seed = tmp_path / "generated.png", 3
    session.reset()
    ask(session, "what?")
    assert session.chat.history[0][0] == "what? <GEN>"
    assert not session.output.exists()  # the model requested no image
    monkeypatch.setattr(session.chat, "ask", lambda _: (part for part in ("<h>a red", " cat</h>")))
    ask(session, "draw a cat")
    with Image.open(session.output) as image:
        first = np.asarray(image)
    assert first.shape == (64, 64, 3)
    assert "generated 'a red cat'" in session.reports[-1]
    again = session.generator.generate("a red cat", seed=3)
    assert np.array_equal(first, np.asarray(again))
    assert not np.array_equal(first, np.asarray(session.generator.generate("a red cat", seed=4)))
    assert session.generator.generate("x", size=(32, 48)).size == (32, 48)
    session.output = tmp_path / "generated.nothing"
    with pytest.raises(MGMError, match="cannot be written"):
        ask(session, "draw a cat")


def test_missing_image_model(tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    with pytest.raises(MGMError, match="is not a text-to-image pipeline"):
        ImageGenerator(str(tmp_path))
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MGMError, match=r"pip install -e '\.\[gen\]'"):
        ImageGenerator(str(tmp_path))
