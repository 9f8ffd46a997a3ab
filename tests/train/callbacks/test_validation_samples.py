"""Which samples of a validation set are evaluated, and how questions are prompted."""

import json
from itertools import takewhile
from pathlib import Path

import pytest
import torch

from mgm.data.sources.bad_samples import BAD_SAMPLES_FILE
from mgm.data.sources.sample import Sample
from mgm.data.text.conversation import build_prompt
from mgm.data.text.templates import TEMPLATES, get_template
from mgm.engine.core.request import Request
from mgm.errors import MGMError
from mgm.train.__main__ import run_training
from mgm.train.callbacks import validation
from mgm.train.callbacks.validation import describe_metrics, first_question
from tests.train.conftest import words


def turns(*texts):
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


@pytest.fixture
def flags(stage2_flags, data, tmp_path):
    return stage2_flags | {
        "output_dir": tmp_path / "run",
        "max_steps": 2,
        "save_strategy": "no",
        "eval_strategy": "steps",
        "eval_steps": 1,
        "eval_image_folder": data.parent,
        "per_device_eval_batch_size": 2,
    }


@pytest.fixture
def good(data):
    samples = json.loads(data.read_text())
    return [samples[index] for index in (0, 8, 9)]


@pytest.fixture
def bad(data):
    """A damaged image, a missing one, a malformed record, and an empty conversation."""
    (data.parent / "cut.png").write_bytes((data.parent / "0.png").read_bytes()[:60])
    question = turns("<image>\nWhich?", "it")
    return [
        {"image": "cut.png", "conversations": question},
        {"image": "gone.png", "conversations": question},
        {"conversations": []},
        {"conversations": turns("", "")},
    ]


def evaluations(trainer):
    return [entry for entry in trainer.state.log_history if "eval_loss" in entry]


@pytest.mark.parametrize("workers", [0, 2])
def test_metrics_of_the_good_samples(flags, good, bad, tmp_path, workers):
    clean, mixed = tmp_path / "clean.json", tmp_path / "mixed.json"
    clean.write_text(json.dumps(good))
    mixed.write_text(json.dumps([bad[0], good[0], *bad[1:], *good[1:]]))
    more = {"on_bad_sample": "skip", "dataloader_num_workers": workers, "eval_num_generations": 9}
    metrics = evaluations(run_training(words(flags | more | {"eval_data_path": mixed})))
    listed = [
        json.loads(line)
        for line in (flags["output_dir"] / BAD_SAMPLES_FILE).read_text().splitlines()
    ]
    assert [(entry["file"], entry["sample"]) for entry in sorted(listed, key=lambda e: e["sample"])]
    assert {entry["sample"] for entry in listed} == {0, 2, 3, 4}
    assert len(listed) == 4  # listed once after two evaluations
    more |= {"output_dir": tmp_path / "clean"}
    expected = evaluations(run_training(words(flags | more | {"eval_data_path": clean})))
    for ours, theirs in zip(metrics, expected, strict=True):
        assert ours["eval_loss"] == pytest.approx(theirs["eval_loss"], rel=1e-5)
        assert ours["eval_samples"] == theirs["eval_samples"] == 3
        assert ours["eval_samples_skipped"] == 4
        assert theirs["eval_samples_skipped"] == 0
        assert ours["eval_answers"] == theirs["eval_answers"] == 3
        assert ours["eval_right_answers"] == theirs["eval_right_answers"]
        assert "on 3 of 7 samples" in describe_metrics(ours)
        assert "samples" not in describe_metrics(theirs)


def test_same_samples_at_every_evaluation(flags, good, bad, data, tmp_path):
    """With an image that is damaged at the first evaluation and valid at the second."""
    path, mended = tmp_path / "mixed.json", data.parent / "mended.png"
    mended.write_bytes(b"")
    path.write_text(json.dumps([bad[0] | {"image": "mended.png"}, *good]))
    trainer = run_training(words(flags | {"on_bad_sample": "skip", "eval_data_path": path}))
    mended.write_bytes((data.parent / "0.png").read_bytes())
    again = trainer.evaluate()
    assert again["eval_samples"] == 3
    assert again["eval_loss"] == pytest.approx(evaluations(trainer)[-1]["eval_loss"], rel=1e-5)


@pytest.mark.parametrize("index", range(4))
def test_raise_names_file_and_sample(flags, good, bad, tmp_path, index):
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps([*good, bad[index]]))
    with pytest.raises(MGMError, match=rf"mixed\.json: sample {len(good)}"):
        run_training(words(flags | {"eval_data_path": path}))


def test_empty_validation_set(flags, bad, tmp_path):
    path = tmp_path / "bad.json"
    for samples, kinds in (
        (bad, "1 broken image, 1 malformed, 1 no answer, 1 missing image"),
        (bad[2:], "1 malformed, 1 no answer"),
    ):
        path.write_text(json.dumps(samples))
        with pytest.raises(MGMError) as caught:
            run_training(words(flags | {"on_bad_sample": "skip", "eval_data_path": path}))
        text = str(caught.value)
        assert f"{path}: no usable samples (" in text
        assert all(kind in text for kind in kinds.split(", ")), text
        assert f"{path}: sample 0" in text


QUESTIONS = {
    "one image": (turns("<image>\nWhich?", "it"), ["0.png"], "<image>\nWhich?", 1),
    "marker behind the text": (
        turns("Which?\n<image>", "it"),
        *(["0.png"], "<image>\nWhich?", 1),
    ),
    "text": (turns("Which?", "it"), [], "Which?", 0),
    "two images": (
        *(turns("<image>\n<image>\nThe same?", "no"), ["0.png", "1.png"]),
        *("<image>\n<image>\nThe same?", 2),
    ),
    "between texts": (
        *(turns("From <image> to <image>?", "yes"), ["0.png", "1.png"]),
        *("From <image> to <image>?", 2),
    ),
    "a second turn": (
        *(turns("<image>\nWhich?", "it", "<image>\nAnd?", "that"), ["0.png", "1.png"]),
        *("<image>\nWhich?", 1),
    ),
    "an image in the second turn alone": (
        *(turns("Which?", "it", "<image>\nAnd?", "that"), ["0.png"]),
        *("Which?", 0),
    ),
    "three turns": (
        turns("<image><image> A?", "a", "<image> B?", "b", "C <image>?", "c"),
        *(["0.png", "1.png", "2.png", "3.png"], "<image><image> A?", 2),
    ),
}


class RecordingEngine:
    """Answers with the question, and records requests."""

    requests: list[Request]

    def __init__(self, model, processor):
        pass

    def answer(self, requests):
        self.requests.extend(requests)
        return [type("Answer", (), {"text": request.prompt})() for request in requests]


@pytest.mark.parametrize("greeting", [False, True])
def test_images_come_before_the_question(flags, data, tmp_path, monkeypatch, greeting):
    monkeypatch.setattr(RecordingEngine, "requests", [], raising=False)
    monkeypatch.setattr(validation, "Engine", RecordingEngine)
    samples = []
    for conversation, images, _, _ in QUESTIONS.values():
        before = [{"from": "gpt", "value": "Hello."}] if greeting else []
        samples.append({"conversations": [*before, *conversation]})
        if images:
            samples[-1]["image"] = images
    path = tmp_path / "held.json"
    path.write_text(json.dumps(samples))
    more = {"eval_data_path": path, "eval_num_generations": 99, "max_steps": 1}
    (figures,) = evaluations(run_training(words(flags | more)))
    assert figures["eval_answers"] == len(QUESTIONS)
    assert len(RecordingEngine.requests) == len(QUESTIONS)
    for request, (name, expected) in zip(RecordingEngine.requests, QUESTIONS.items(), strict=True):
        _, images, prompt, count = expected
        assert request.prompt == prompt, name
        assert request.images == tuple(data.parent / image for image in images[:count]), name


def test_images_as_bytes():
    sample = Sample((("<image> A?", "a"),), (b"one", "two"))
    request = first_question(sample, Path("x"), get_template("nano"), "stored")
    assert request.images == (b"one",)


# Templates whose training layout equals that of prompts.
SAME_TEXT = [name for name, one in TEMPLATES.items() if one.training is None and not one.examples]


@pytest.mark.parametrize("name", SAME_TEXT)
@pytest.mark.parametrize("system", [None, "", "Be brief."])
@pytest.mark.parametrize("images", [(), ("a.png",)])
@pytest.mark.parametrize("question", ["Which?", "Which? <image> And?"])
@pytest.mark.parametrize("keeps_order", [False, True])
def test_prompt_equals_the_training_text(name, system, images, question, keeps_order):
    template = get_template(name)
    question = question if images else question.replace("<image>", "")
    sample = Sample(((question, "It."),), images, system=system, keeps_order=keeps_order)
    request = first_question(sample, Path(), template, "stored")
    prompt = build_prompt(template, [(request.prompt, None)], request.system)
    before = takewhile(lambda segment: not segment.supervised, sample.segments(template))
    assert prompt == "".join(segment.text for segment in before)
    assert len(request.images) == request.prompt.count("<image>")


@pytest.mark.parametrize("name", sorted(TEMPLATES.keys() - set(SAME_TEXT)))
def test_system_prompts_of_templates_with_a_training_layout(name):
    sample = Sample((("<image>", "A cat."),), ("a.png",), system="Be brief.")
    template = get_template(name)
    request = first_question(sample, Path(), template, "stored")
    prompt = build_prompt(template, [*template.examples, (request.prompt, None)], request.system)
    learned = "".join(segment.text for segment in sample.segments(template))
    assert prompt.count("Be brief.") == learned.count("Be brief.")


def test_system_prompts_in_a_run(flags, tmp_path):
    """The model's template has no system prompt."""
    path = tmp_path / "held.json"
    path.write_text(json.dumps([{"system": "Be brief.", "conversations": turns("Hi", "Yes")}]))
    more = flags | {"eval_data_path": path, "eval_num_generations": 4, "max_steps": 1}
    (figures,) = evaluations(run_training(words(more)))
    assert figures["eval_answers"] == 1
    assert figures["eval_answers_skipped"] == 3
    assert "3 fewer answers generated than --eval_num_generations" in describe_metrics(figures)


def test_no_label_within_the_limit(flags, good, tmp_path):
    """Samples without labels after truncation have no loss and are not counted."""
    path = tmp_path / "held.json"
    long = {"conversations": turns("word " * 100, "b")}
    path.write_text(json.dumps([long, long]))
    with pytest.raises(MGMError, match=r"none of its 2 samples has a label within model_max_len"):
        run_training(words(flags | {"eval_data_path": path}))
    path.write_text(json.dumps([long, *good]))
    (figures,) = evaluations(run_training(words(flags | {"eval_data_path": path, "max_steps": 1})))
    assert (figures["eval_samples"], figures["eval_samples_skipped"]) == (len(good), 1)


@pytest.mark.parametrize("path", ["a.tar", "https://example.org/a.json"])
@pytest.mark.parametrize("mixed", [False, True])
def test_streamed_validation_set(flags, tmp_path, path, mixed):
    mixture = tmp_path / "mixture.json"
    mixture.write_text(json.dumps({"datasets": [{"path": path}]}))
    with pytest.raises(
        MGMError, match="can only be streamed, and a validation set cannot be a stream"
    ):
        run_training(words(flags | {"eval_data_path": mixture if mixed else path}))


def test_first_usable_samples_are_generated(flags, good, bad, tmp_path):
    path = tmp_path / "held.json"
    path.write_text(json.dumps([*bad, bad[0], *good]))
    more = {"on_bad_sample": "skip", "eval_data_path": path, "max_steps": 1}
    more |= {"eval_num_generations": 2}
    (figures,) = evaluations(run_training(words(flags | more)))
    assert figures["eval_answers"] == 2
    assert figures["eval_answers_skipped"] == 0
    assert "fewer" not in describe_metrics(figures)


def test_question_longer_than_the_context(flags, good, tmp_path, caplog):
    """An error, or skipped."""
    path = tmp_path / "held.json"
    path.write_text(json.dumps([*good, {"conversations": turns("a" * 9000, "b")}]))
    more = flags | {"eval_data_path": path, "eval_num_generations": 9, "max_steps": 1}
    with pytest.raises(MGMError, match="--eval_num_generations: sample 3: "):
        run_training(words(more))
    (figures,) = evaluations(run_training(words(more | {"on_bad_sample": "skip"})))
    assert figures["eval_answers"] == len(good)
    assert "--eval_num_generations: sample 3: " in caplog.text
    assert torch.isfinite(torch.tensor(figures["eval_loss"]))
