"""Batched generation with preparation of the next batch."""

import threading

import pytest
from PIL import Image

import mgm
from mgm import MGMError, Request
from mgm.engine.engine import Engine
from mgm.engine.kv_cache.memory import kv_bytes_per_token
from mgm.engine.scheduler.config import SchedulerConfig
from mgm.eval.harness.models import generate_all
from tests.tiny_model import build


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return mgm.load(build(tmp_path_factory.mktemp("models") / "tiny"), device="cpu")


def requests(count: int) -> list[tuple[int, Request]]:
    colours = ("red", "green", "blue")
    images = [Image.new("RGB", (50, 30), colours[number % 3]) for number in range(count)]
    return [
        (number, Request(f"what {number}?", images=[image], max_new_tokens=3 + number % 5))
        for number, image in enumerate(images)
    ]


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_responses_equal_single_ones(engine, batch_size, ahead):
    batch = requests(11)
    expected = {name: engine.answer([request])[0].text for name, request in batch}
    answers = list(generate_all(engine, batch, batch_size, ahead))
    assert {name: answer.text for name, answer in answers} == expected
    assert len(answers) == len(batch)
    assert list(generate_all(engine, [], batch_size)) == []


def test_outputs_are_not_cached(engine):
    """The prefix cache has prompts only."""
    fresh = Engine(engine.model, engine.processor, scheduler_config=SchedulerConfig.offline(3))
    batch = requests(6)
    longest = max(answer.prompt_tokens for _, answer in generate_all(fresh, batch, 3))
    cache = fresh.scheduler.prefix_cache
    assert 0 < cache.nbytes <= 6 * longest * kv_bytes_per_token(engine.model)
    fresh.answer([request for _, request in batch])
    keeping = Engine(engine.model, engine.processor)
    keeping.answer([request for _, request in batch])
    assert keeping.scheduler.prefix_cache.nbytes > cache.nbytes


def test_next_batch_is_prepared_during_decoding(engine, monkeypatch):
    stepped = threading.Event()
    original = engine.scheduler.step
    monkeypatch.setattr(engine.scheduler, "step", lambda: (original(), stepped.set()))

    def pending_requests():
        for name, request in requests(6):
            if name == 2:  # the second batch
                assert stepped.wait(60)
            yield name, request

    assert len(list(generate_all(engine, pending_requests(), 2, ahead=True))) == 6


def test_error_belongs_to_its_question(engine, tmp_path):
    batch = requests(5)
    batch.append(("last", Request("what?", images=[tmp_path / "none.png"])))
    answers = []
    with pytest.raises(MGMError, match=r"^question last: image 1 of 1: .*none.png"):
        answers.extend(generate_all(engine, batch, 2))
    batch[-1] = ("long", Request("what?" * 500))
    with pytest.raises(MGMError, match=r"^question long: the prompt takes"):
        list(generate_all(engine, batch, 2))


def test_closing_the_generator_cancels_requests(engine):
    answers = generate_all(engine, requests(9), 2)
    next(answers)
    answers.close()
    assert "preprocess" not in {thread.name.split("_")[0] for thread in threading.enumerate()}
    assert len(list(generate_all(engine, requests(3), 2))) == 3
