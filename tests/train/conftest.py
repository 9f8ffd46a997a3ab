"""Tiny parts on disk, generated samples, and command-line flags as a dictionary."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from mgm.train.__main__ import run_training
from tests.model.tiny import TEXT, save_towers
from tests.shared_folders import shared_folder

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "purple", "orange")


@pytest.fixture(scope="session")
def parts(tmp_path_factory) -> dict[str, Path]:
    """Folders of a tiny language model with its tokenizer, and of two tiny encoders."""
    root = shared_folder(tmp_path_factory, "parts", make_parts)
    return {name: root / name for name in ("language", "clip", "convnext")}


def make_parts(root: Path) -> None:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(root / "language")
    text = TEXT | {"vocab_size": len(tokenizer), "tie_word_embeddings": True}
    LlamaForCausalLM(LlamaConfig(**text)).save_pretrained(root / "language")
    save_towers(root / "clip", root / "convnext")


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = ByteLevelBPETokenizer()
    special = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"]
    tokenizer.train_from_iterator([], vocab_size=262, special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A data file with eight images, and samples without an image."""
    return shared_folder(tmp_path_factory, "data", make_data) / "data.json"


def make_data(root: Path) -> None:
    samples = []
    for index, colour in enumerate(COLOURS):
        Image.new("RGB", (30 + index, 24), colour).save(root / f"{index}.png")
        question = {"from": "human", "value": "<image>\nWhich colour?"}
        answer = {"from": "gpt", "value": colour}
        samples.append({"id": index, "image": f"{index}.png", "conversations": [question, answer]})
    question = {"from": "human", "value": "<image>\n<image>\nThe same?"}
    turns = [question, {"from": "gpt", "value": "no"}]
    samples.append({"id": "two", "image": ["0.png", "1.png"], "conversations": turns})
    for index in range(3):
        turns = [{"from": "human", "value": f"say {index}"}, {"from": "gpt", "value": f"{index}"}]
        samples.append({"id": f"text {index}", "conversations": turns})
    path = root / "data.json"
    path.write_text(json.dumps(samples))
    images_only = root / "captions.json"
    images_only.write_text(json.dumps(samples[: len(COLOURS)]))


def words(flags: dict[str, object]) -> list[str]:
    """Flags as command-line arguments, without those that are None."""
    given = {name: value for name, value in flags.items() if value is not None}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


COMMON: dict[str, object] = {
    "per_device_train_batch_size": 2,
    "num_train_epochs": 1,
    "learning_rate": 1e-2,
    "model_max_length": 64,
    "use_cpu": True,
    "disable_tqdm": True,
    "logging_steps": 1,
    "report_to": "none",
}


@pytest.fixture(scope="session")
def stage1_flags(parts, data) -> dict[str, object]:
    return COMMON | {
        "model_name_or_path": parts["language"],
        "vision_tower": parts["clip"],
        "vision_tower_aux": parts["convnext"],
        "tune_mm_mlp_adapter": True,
        "version": "plain",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "image_size_aux": 128,
        "data_path": data.parent / "captions.json",
        "save_strategy": "no",
    }


@pytest.fixture(scope="session")
def stage1(stage1_flags, tmp_path_factory) -> Path:
    """The output folder of stage 1."""
    return shared_folder(
        tmp_path_factory,
        "stage1",
        lambda made: run_training(words(stage1_flags | {"output_dir": made})),
    )


@pytest.fixture(scope="session")
def stage2_flags(stage1, data) -> dict[str, object]:
    return COMMON | {
        "model_name_or_path": stage1,
        "version": "nano",
        "image_aspect_ratio": "pad",
        "group_by_modality_length": True,
        "data_path": data,
        "save_strategy": "steps",
        "save_steps": 2,
    }
