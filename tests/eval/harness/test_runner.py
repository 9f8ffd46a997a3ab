"""Questions that cannot be run are skipped with a reason, and the others are answered."""

from dataclasses import replace

import pytest
from PIL import Image

import mgm
from mgm.errors import MGMError
from mgm.eval.harness.models import EndpointModel, EngineModel
from mgm.eval.harness.openai_client import MAX_CONSECUTIVE_FAILURES
from mgm.eval.harness.question import Question
from mgm.eval.harness.response_cache import ResponseCache
from mgm.eval.harness.runner import cached_responses, generate_responses
from tests.eval.fixtures import png
from tests.eval.harness.misbehaving_server import Reply, refused, reply_with, server
from tests.tiny_model import build


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return mgm.load(build(tmp_path_factory.mktemp("models") / "tiny"), device="cpu")


def odd_questions(tmp_path) -> list[Question]:
    """Valid questions first, in the middle and last, invalid ones between."""
    good = [Question(f"good {n}", f"what {n}?", (png((n, 0, 0)),), max_new_tokens=2)
            for n in range(4)]  # fmt: skip
    cut = png("blue")[:60]
    (tmp_path / "text.jpg").write_text("no image")
    return [
        good[0],
        Question("missing", "what?", (tmp_path / "nowhere.jpg",)),
        Question("folder", "what?", (tmp_path,)),
        good[1],
        Question("cut", "what?", (cut,)),
        Question("twin", "what?", (cut,)),  # the same question
        Question("text", "what?", (tmp_path / "text.jpg",)),
        Question("empty", "what?", (b"",)),
        Question("second", "what?", (png("red"), b"")),
        good[2],
        Question("marker", "<image> and <image>", (png("red"),)),
        Question("long", "what? " * 5000),
        good[3],
    ]


ODD = ["cut", "empty", "folder", "long", "marker", "missing", "second", "text", "twin"]


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_invalid_questions_are_skipped(engine, tmp_path, batch_size):
    questions = odd_questions(tmp_path)
    cache = ResponseCache(tmp_path / "answers", "tiny")
    skipped = generate_responses(questions, EngineModel(engine, batch_size), cache)
    assert sorted(one.id for one in skipped) == ODD
    reasons = {one.id: one.reason for one in skipped}
    assert "nowhere.jpg" in reasons["missing"]
    assert "image 2 of 2" in reasons["second"]
    assert reasons["twin"] == reasons["cut"]
    responses = cached_responses(questions, cache)
    assert [one.question.id for one in responses] == [f"good {n}" for n in range(4)]
    good = [one for one in questions if one.id not in ODD]
    alone = ResponseCache(tmp_path / "alone", "tiny")
    assert generate_responses(good, EngineModel(engine, batch_size), alone) == []
    assert [one.text for one in cached_responses(good, alone)] == [one.text for one in responses]


def test_only_invalid_questions(engine, tmp_path):
    odd = [one for one in odd_questions(tmp_path) if one.id in ODD]
    skipped = generate_responses(
        odd, EngineModel(engine, 2), ResponseCache(tmp_path / "answers", "tiny")
    )
    assert sorted(one.id for one in skipped) == ODD


def test_scheduler_error_skips_its_question(engine, tmp_path, monkeypatch):
    """With a prompt that fails in the scheduler."""
    questions = [Question(f"{n}", f"what {n}?", max_new_tokens=2) for n in range(5)]
    begin = engine.start_generation

    def faulty(prepared):
        streams = begin(prepared)
        for request, stream in zip(prepared.requests, streams, strict=True):
            if request.prompt == "what 3?":
                stream._sequence.fail(MGMError("the sky fell"))
        return streams

    monkeypatch.setattr(engine, "start_generation", faulty)
    cache = ResponseCache(tmp_path / "answers", "tiny")
    skipped = generate_responses(questions, EngineModel(engine, 2), cache)
    assert [(one.id, one.reason) for one in skipped] == [("3", "question 3: the sky fell")]
    assert len(cached_responses(questions, cache)) == 4


def test_server_rejects_an_image(tmp_path):
    """Other invalid images are found before a request is sent."""

    def answer(body):
        parts = body["messages"][0]["content"]
        return (
            refused("unsupported image") if "what 2?" in parts[-1]["text"] else reply_with("red ")
        )

    questions = [one for one in odd_questions(tmp_path) if one.id not in ("long", "marker")]
    with server(answer) as (address, bodies):
        cache = ResponseCache(tmp_path / "answers", "there")
        skipped = generate_responses(questions, EndpointModel(address, "m", 3, wait=0.001), cache)
    assert {"good 2", "missing", "folder"} <= {one.id for one in skipped}
    assert any("unsupported image" in one.reason for one in skipped)
    assert {one.text for one in cached_responses(questions, cache)} == {"red"}
    assert all(body["max_tokens"] == 2 for body in bodies if "what 1?" in str(body))


@pytest.mark.parametrize(
    "reply", [Reply({"error": "down"}, 500), refused("no images here"), Reply(close=True)]
)
def test_unresponsive_server_ends_the_run_early(reply, tmp_path):
    questions = [Question(f"{n}", f"what {n}?") for n in range(3 * MAX_CONSECUTIVE_FAILURES)]
    with server(reply) as (address, bodies):
        answerer = EndpointModel(address, "m", 4, wait=0.0001)
        with pytest.raises(
            MGMError, match=f"{MAX_CONSECUTIVE_FAILURES} consecutive requests failed"
        ):
            generate_responses(questions, answerer, ResponseCache(tmp_path, "there"))
        assert len(bodies) < 5 * (MAX_CONSECUTIVE_FAILURES + 10)


def test_unusual_responses_of_a_server(tmp_path):
    """Null, lone surrogates, control characters, 100 kB: each is stored and read back."""
    texts = {"0": None, "1": "\ud83d", "2": "\0\x1b[2J", "3": "x" * 100_000, "4": ["a"], "5": ""}

    def answer(body):
        return reply_with(texts[body["messages"][0]["content"][-1]["text"]])

    questions = [Question(name, name) for name in texts]
    with server(answer) as (address, _):
        assert (
            generate_responses(
                questions, EndpointModel(address, "m", 2), ResponseCache(tmp_path, "t")
            )
            == []
        )
    by_id = {
        one.question.id: one.text
        for one in cached_responses(questions, ResponseCache(tmp_path, "t"))
    }
    kept = {"0": "", "1": "\ufffd", "2": "\0\x1b[2J", "3": "x" * 100_000, "4": "", "5": ""}
    assert by_id == kept


def test_fixed_image_is_run_again(engine, tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(b"no")
    question = Question("1", "what?", (file,), max_new_tokens=2)
    cache = ResponseCache(tmp_path / "answers", "tiny")
    assert len(generate_responses([question], EngineModel(engine, 2), cache)) == 1
    Image.new("RGB", (40, 30), "red").save(file)
    again = ResponseCache(tmp_path / "answers", "tiny")
    assert generate_responses([replace(question)], EngineModel(engine, 2), again) == []
    assert len(cached_responses([question], again)) == 1
