"""Validation during training."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import mgm
from mgm.data.datasets.training_dataset import TrainingDataset
from mgm.errors import MGMError
from mgm.model.loading import load_model
from mgm.train.__main__ import run_training
from mgm.train.callbacks.loss_plot import plot_losses
from tests.train.conftest import words
from tests.train.test_processes import ROOT, losses, train_in_processes


@pytest.fixture(scope="module")
def validation_set(data, tmp_path_factory):
    """Five samples, with one image, two, or none; not divisible by two processes."""
    samples = json.loads(data.read_text())
    path = tmp_path_factory.mktemp("hold_out") / "held.json"
    path.write_text(json.dumps([samples[index] for index in (1, 8, 9, 10, 4)]))
    return path


@pytest.fixture
def flags(stage2_flags, data, validation_set, tmp_path):
    return stage2_flags | {
        "output_dir": tmp_path / "run",
        "save_strategy": "no",
        "eval_strategy": "steps",
        "eval_steps": 2,
        "eval_data_path": validation_set,
        "eval_image_folder": data.parent,
        "per_device_eval_batch_size": 2,
    }


def test_loss_is_the_mean_over_all_tokens(flags, validation_set, data):
    trainer = run_training(words(flags))
    logged = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert [entry["step"] for entry in logged] == [2, 4, 6]
    model = load_model(flags["output_dir"], dtype=torch.float32).eval()
    total, count = 0.0, 0
    samples = TrainingDataset(validation_set, trainer.processing_class, data.parent)
    for index in range(len(samples)):
        sample = samples[index]
        pixels = sample.get("pixel_values_aux")
        with torch.no_grad():
            logits = model(input_ids=sample["input_ids"][None], pixel_values_aux=pixels).logits[0]
        labels = sample["labels"][1:]
        total += float(F.cross_entropy(logits[:-1], labels, reduction="sum"))
        count += int((labels != -100).sum())
    assert logged[-1]["eval_loss"] == pytest.approx(total / count, rel=1e-5)
    assert logged[-1]["eval_loss"] < logged[0]["eval_loss"]


def test_validation_does_not_change_training(flags, tmp_path):
    more = {"eval_num_generations": 3, "eval_on_start": True}
    measured = run_training(words(flags | more)).model.state_dict()
    names = ("eval_strategy", "eval_data_path", "eval_image_folder")
    alone = flags | dict.fromkeys(names) | {"output_dir": tmp_path / "alone"}
    for name, tensor in run_training(words(alone)).model.state_dict().items():
        assert torch.equal(tensor, measured[name]), name


@pytest.mark.heavy
def test_exact_match(flags, validation_set, data, tmp_path):
    """Equal to the engine's answers with the saved model."""
    samples = json.loads(validation_set.read_text())
    questions = [sample["conversations"][0]["value"] for sample in samples]
    learned = flags | {"num_train_epochs": 80, "eval_num_generations": 9, "eval_steps": 240}
    trainer = run_training(
        words(learned | {"data_path": validation_set, "image_folder": data.parent})
    )
    logged = [e["eval_right_answers"] for e in trainer.state.log_history if "eval_loss" in e]
    engine = mgm.load(flags["output_dir"])
    right = 0
    for sample, question in zip(samples, questions, strict=True):
        images = sample.get("image", [])
        paths = [data.parent / name for name in ([images] if isinstance(images, str) else images)]
        text = question.replace("<image>", "").strip()
        request = mgm.Request(text, images=paths, max_new_tokens=64, temperature=0)
        (answer,) = engine.answer([request])
        right += answer.text.strip() == sample["conversations"][1]["value"]
    assert logged[-1] == pytest.approx(right / len(samples))
    assert right > 0


def test_losses_of_data_sets_and_plots(flags, validation_set, data, tmp_path, capsys):
    mixture = tmp_path / "mixture.json"
    texts = [sample for sample in json.loads(data.read_text()) if "image" not in sample]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    sources = [
        {"path": str(validation_set), "image_folder": str(data.parent)},
        {"path": "texts.json"},
    ]
    mixture.write_text(json.dumps({"datasets": sources}))
    trainer = run_training(words(flags | {"eval_data_path": mixture}))
    (last,) = [e for e in trainer.state.log_history if "eval_loss" in e and e["step"] == 6]
    low, high = sorted((last["eval_loss/held"], last["eval_loss/texts"]))
    assert low <= last["eval_loss"] <= high
    assert "step 6: validation loss" in capsys.readouterr().err
    plot_losses(trainer.state.log_history, tmp_path)
    assert (tmp_path / "curves.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("change", "words_of_fault"),
    [
        ({"eval_data_path": None, "eval_image_folder": None}, "give --eval_data_path"),
        ({"eval_strategy": "no"}, "--eval_data_path does nothing without --eval_strategy"),
        ({"eval_num_generations": -1}, "--eval_num_generations -1"),
        ({"fsdp": "full_shard", "eval_num_generations": 1}, "--eval_num_generations: no process"),
        ({"eval_data_path": "nowhere.json"}, "nowhere.json: cannot be read"),
        ({"load_best_model_at_end": True}, "--load_best_model_at_end"),
    ],
)
def test_errors(flags, change, words_of_fault):
    with pytest.raises(MGMError) as caught:
        run_training(words(flags | change))
    assert words_of_fault in str(caught.value)


def test_former_flag_name(flags):
    trainer = run_training(words(flags | {"eval_strategy": None, "evaluation_strategy": "epoch"}))
    assert [e["step"] for e in trainer.state.log_history if "eval_loss" in e] == [6]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["ddp", "zero3", "fsdp"])
def test_several_processes_compute_the_same(flags, tmp_path, form):
    """One of two processes has three of five samples, some without an image."""
    flags = flags | {"group_by_modality_length": False, "per_device_eval_batch_size": 1}
    run_training(words(flags | {"output_dir": tmp_path / "alone"}))
    flags |= {"per_device_train_batch_size": 1, "output_dir": tmp_path / "two"}
    if form == "zero3":
        pytest.importorskip("deepspeed")
        flags |= {"deepspeed": ROOT / "scripts" / "zero3.json"}
    flags |= {"fsdp": "full_shard"} if form == "fsdp" else {}
    flags |= {"eval_num_generations": 4} if form == "ddp" else {}
    done = train_in_processes(flags)
    assert done.returncode == 0, done.stderr[-3000:]
    ours = losses(tmp_path / "two", "eval_loss")
    assert ours == pytest.approx(losses(tmp_path / "alone", "eval_loss"), abs=1e-4)
    saved = load_file(tmp_path / "two" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "alone" / "model.safetensors").items():
        torch.testing.assert_close(saved[name], tensor, rtol=1e-3, atol=1e-4)
