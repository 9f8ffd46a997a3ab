"""transformers' Trainer with our model: losses, metrics and predictions."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
)
from transformers.utils.generic import find_labels

from mgm.data.datasets.collator import Collator
from mgm.data.datasets.mixture import MixedDataset
from mgm.data.datasets.training_dataset import TrainingDataset
from mgm.data.processing_mgm import MGMProcessor
from mgm.data.sources.mixture_config import MixtureSource
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from tests.shared_folders import shared_folder
from tests.tiny_model import build

VOCABULARY = 261


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return shared_folder(tmp_path_factory, "tiny-plain-trainer", build)


@pytest.fixture
def model(folder):
    return MGMForConditionalGeneration.from_pretrained(folder)


@pytest.fixture
def processor(folder):
    return MGMProcessor.from_pretrained(folder)


@pytest.fixture
def file(tmp_path):
    """A data file of four samples with an image and one without."""
    samples = []
    for number, colour in enumerate(("red", "green", "blue", "black")):
        Image.new("RGB", (30, 20), colour).save(tmp_path / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": colour}]
        samples.append({"image": f"{number}.png", "conversations": turns})
    turns = [{"from": "human", "value": "Say it."}, {"from": "gpt", "value": "it"}]
    path = tmp_path / "data.json"
    path.write_text(json.dumps([*samples, {"conversations": turns}]))
    return path


def trainer(model, samples, processor, tmp_path, kind=Trainer, **options):
    arguments = TrainingArguments if kind is Trainer else Seq2SeqTrainingArguments
    compute = options.pop("compute_metrics", None)
    settings = {
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "max_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return kind(
        model,
        arguments(str(tmp_path / "run"), **(settings | options)),
        data_collator=Collator.of(processor, 64),
        train_dataset=samples,
        eval_dataset=samples,
        processing_class=processor.tokenizer,
        compute_metrics=compute,
    )


def batch_losses(model, samples, processor):
    """The mean loss over batches of two, weighted by samples as the Trainer does."""
    model.eval()
    collate, losses = Collator.of(processor, 64), []
    for start in range(0, len(samples), 2):
        items = [samples[index] for index in range(start, min(start + 2, len(samples)))]
        batch = collate(items)
        del batch["index"]
        labels = batch.pop("labels")
        with torch.no_grad():
            logits = model(**batch).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        losses += [loss.item()] * len(items)
    return np.mean(losses)


def test_label_names():
    assert find_labels(MGMForConditionalGeneration) == ["labels"]


def test_evaluation_chooses_the_best_checkpoint(model, file, processor, tmp_path):
    samples = TrainingDataset(file, processor)
    plain = trainer(
        *(model, samples, processor, tmp_path),
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
    )
    plain.add_callback(EarlyStoppingCallback(1))
    plain.train()
    losses = [entry["eval_loss"] for entry in plain.state.log_history if "eval_loss" in entry]
    assert len(losses) == 2
    assert plain.state.best_metric == min(losses)
    assert plain.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-5)
    assert min(losses) == pytest.approx(batch_losses(plain.model, samples, processor), rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"remove_unused_columns": False},
        {"include_for_metrics": ["inputs", "loss"]},
        {"eval_accumulation_steps": 1},
        {"prediction_loss_only": True},
    ],
    ids=str,
)
def test_predictions_are_logits(options, model, file, processor, tmp_path):
    seen: list[EvalPrediction] = []

    def metrics(prediction):
        seen.append(prediction)
        return {"n": len(prediction.predictions)}

    samples = TrainingDataset(file, processor)
    plain = trainer(model, samples, processor, tmp_path, compute_metrics=metrics, **options)
    evaluated = plain.evaluate()
    expected = batch_losses(model, samples, processor)
    assert evaluated["eval_loss"] == pytest.approx(expected, rel=1e-5)
    output = plain.predict(samples)
    assert output.metrics["test_loss"] == pytest.approx(expected, rel=1e-5)
    if options.get("prediction_loss_only"):
        assert output.predictions is None
        assert not seen
        return
    assert evaluated["eval_n"] == len(samples)
    assert isinstance(seen[0].predictions, np.ndarray)  # without cache and group losses
    assert seen[0].predictions.shape == (*seen[0].label_ids.shape, VOCABULARY)
    assert output.predictions.shape == seen[0].predictions.shape
    if "include_for_metrics" in options:
        assert seen[0].inputs.shape == seen[0].label_ids.shape
        assert len(seen[0].losses) == len(samples)


def test_samples_of_several_sources(model, file, processor, tmp_path):
    """The source of labels changes neither training nor predictions."""
    sources = [MixtureSource(str(file), name="a"), MixtureSource(str(file), name="b")]
    samples = MixedDataset(file, sources, processor)
    plain = trainer(model, samples, processor, tmp_path, remove_unused_columns=False)
    plain.train()
    output = plain.predict(samples)
    assert output.predictions.shape == (*output.label_ids.shape, VOCABULARY)
    assert output.metrics["test_loss"] > 0


def test_generated_predictions(model, file, processor, tmp_path):
    samples = Subset(TrainingDataset(file, processor), range(4))  # full batches, with equal weights
    plain = trainer(
        *(model, samples, processor, tmp_path, Seq2SeqTrainer),
        predict_with_generate=True,
        generation_max_length=48,
    )
    output = plain.predict(samples)
    assert output.predictions.shape == (len(samples), 48)
    assert output.metrics["test_loss"] == pytest.approx(batch_losses(model, samples, processor))


def test_group_losses_instead_of_logits(model, file, processor):
    samples = TrainingDataset(file, processor)
    batch = Collator.of(processor, 64)([samples[0], samples[4]])
    del batch["index"]
    groups = torch.tensor([[3], [8]]).expand_as(batch["labels"])
    with torch.no_grad():
        whole = model.eval()(**batch, loss_group_ids=groups)
        parts = model(**batch, loss_group_ids=groups, skip_logits=True)
    assert whole.logits.shape[:2] == batch["labels"].shape
    assert "group_losses" not in whole
    assert "logits" not in parts
    assert parts.group_losses[:, 0].tolist() == [3, 8]
    assert parts.group_losses[:, 1].sum() / parts.group_losses[:, 2].sum() == pytest.approx(
        whole.loss.item(), rel=1e-5
    )
