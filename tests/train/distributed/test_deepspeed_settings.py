"""DeepSpeed settings: completion, comparison with flags, one-line errors."""

import json
import logging
import os
from pathlib import Path

import pytest
import torch

from mgm.errors import MGMError
from mgm.train.args.validation import parse_arguments
from mgm.train.distributed.deepspeed_start import deepspeed_errors, set_single_process_env

pytest.importorskip("deepspeed")
ROOT = Path(__file__).parents[3]
NEEDED = ("--model_name_or_path", "a", "--data_path", "b", "--report_to", "none")
STAGE2 = {"zero_optimization": {"stage": 2}}
VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """One process on a CPU with bf16, in a clean environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mgm.train.args.arguments.cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr("mgm.train.args.arguments.set_single_process_env", lambda: None)


def parsed(settings: object, *words: str) -> dict:
    Path("settings.json").write_text(
        settings if isinstance(settings, str) else json.dumps(settings)
    )
    training = parse_arguments(
        [*NEEDED, "--output_dir", "c", "--deepspeed", "settings.json", *words]
    )[2]
    return training.hf_deepspeed_config.config


def fault(settings: object, *words: str) -> str:
    with pytest.raises(MGMError) as caught:
        parsed(settings, *words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["zero2", "zero2_offload", "zero3"])
def test_settings_of_the_scripts(name):
    settings = parsed((ROOT / "scripts" / f"{name}.json").read_text(), "--bf16", "True")
    assert settings["bf16"]["enabled"] is True
    assert settings["train_micro_batch_size_per_gpu"] == 8


def test_missing_fields_take_flags():
    """DeepSpeed's defaults would ignore the flags: no clipping, and float32."""
    settings = parsed(STAGE2, "--bf16", "True", "--max_grad_norm", "0.5")
    assert settings["gradient_clipping"] == 0.5
    assert settings["bf16"]["enabled"] is True
    assert settings["train_batch_size"] == 8
    adam = {"optimizer": {"type": "AdamW"}}
    settings = parsed(STAGE2 | adam, "--learning_rate", "0.5", "--weight_decay", "0.25")
    assert settings["optimizer"]["params"]["lr"] == 0.5
    assert settings["optimizer"]["params"]["weight_decay"] == 0.25


def test_zero_3_gathers_weights_for_saving():
    """Otherwise checkpoints could not be resumed, and the result would have no weights."""
    gathered = "stage3_gather_16bit_weights_on_model_save"
    old = "stage3_gather_fp16_weights_on_model_save"
    for value in ({}, {gathered: "auto"}, {gathered: True}, {old: True}):
        result = parsed({"zero_optimization": {"stage": 3} | value})
        assert result["zero_optimization"][gathered] is True
    assert parsed({"zero_optimization": {"stage": 2, gathered: False}})
    for value in (False, 0):
        result = fault({"zero_optimization": {"stage": 3, gathered: value}})
        assert f"zero_optimization.{gathered} is {json.dumps(value)}: neither checkpoints" in result
    assert gathered in fault({"zero_optimization": {"stage": 3, old: False}})


# Field, a value other than the flag's, and the flag in the error.
FIXED = [
    ("train_micro_batch_size_per_gpu", 16, "--per_device_train_batch_size is 8"),
    ("gradient_accumulation_steps", 8, "--gradient_accumulation_steps is 1"),
    ("train_batch_size", 7, "1 processes x --per_device_train_batch_size 8 x"),
    ("gradient_clipping", 0.5, "--max_grad_norm is 1.0"),
    ("fp16", {"enabled": True}, "--fp16 is False"),
    ("bf16", {"enabled": True}, "--bf16 is False"),
    ("optimizer", {"type": "AdamW", "params": {"lr": 3}}, "--learning_rate is 5e-05"),
    ("optimizer", {"type": "AdamW", "params": {"eps": 3}}, "--adam_epsilon is 1e-08"),
    ("optimizer", {"type": "AdamW", "params": {"weight_decay": 3}}, "--weight_decay is 0.0"),
    ("optimizer", {"type": "AdamW", "params": {"betas": [0, 0]}}, "--adam_beta1 and --adam_beta2"),
    ("scheduler", {"type": "WarmupLR", "params": {"warmup_max_lr": 3}}, "--learning_rate is"),
]


@pytest.mark.parametrize(("field", "value", "flag"), FIXED)
def test_conflicting_number(field, value, flag):
    message = fault(STAGE2 | {field: value})
    assert message.startswith("--deepspeed settings.json: settings disagree with flags: ")
    assert f"{field}" in message
    assert flag in message
    assert 'write "auto" for them' in message


def test_several_conflicts():
    message = fault(
        {"train_micro_batch_size_per_gpu": 16, "gradient_accumulation_steps": 8} | STAGE2
    )
    assert "train_micro_batch_size_per_gpu is 16" in message
    assert "gradient_accumulation_steps is 8" in message


def test_equal_numbers():
    fixed = {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 3}
    words = ("--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "3")
    parsed(STAGE2 | fixed | {"train_batch_size": 6}, *words)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("", "is not valid JSON"),
        ('{"zero_optimization": {"sta', "is not valid JSON"),
        ("zero_optimization:\n  stage: 2\n", "is not valid JSON"),
        ([STAGE2], "contains a list, not an object"),
        ({}, "has no zero_optimization"),
        ({"model_type": "llama"}, "has no zero_optimization"),
        ({"zero_optimisation": {}}, "did you mean that by zero_optimisation?"),
        ({"zero_optimization": True}, "zero_optimization is true; give an object"),
        ({"zero_optimization": {"stage": "3"}}, 'stage is "3"; give a number'),
        ({"zero_optimization": {"stage": 7}}, "stage: Input should be 0, 1, 2"),
        ({"zero_optimization": {"stage": 2, "overlap": 1}}, "overlap: Extra inputs"),
        (STAGE2 | {"gradient_cliping": 1}, "did you mean gradient_clipping?"),
        (STAGE2 | {"foo": 1}, "foo is not a field of DeepSpeed's settings"),
        (STAGE2 | {"fp16": True}, "fp16 is true; give an object"),
        (STAGE2 | {"optimizer": {"params": {}}}, "optimizer.type is missing"),
        (STAGE2 | {"scheduler": "WarmupLR"}, 'scheduler is "WarmupLR"; give an object'),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}},
            "is on nvme, without nvme_path",
        ),
        (
            {"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}},
            "needs stage 3",
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "disk"}}},
            "offload_optimizer.device: Input should be",
        ),
    ],
)
def test_invalid_settings(settings, message):
    actual = fault(settings)
    assert actual.startswith("--deepspeed settings.json: ")
    assert message in actual


def test_unreadable_files(tmp_path):
    for name, message in (("nowhere.json", "No such file"), (str(tmp_path), "Is a directory")):
        with pytest.raises(MGMError, match=f"--deepspeed {name}: cannot be read .{message}"):
            parse_arguments([*NEEDED, "--output_dir", "c", "--deepspeed", name])


@pytest.mark.parametrize(
    ("section", "words", "message"),
    [
        ({"optimizer": {"type": "AdamW"}}, ("--optim", "adafactor"), "--optim is adafactor"),
        ({"optimizer": {"type": "AdamW"}}, ("--mm_projector_lr", "1"), "one learning rate for all"),
        ({"optimizer": {"type": "Adam"}}, ("--lr_multi", "a:2"), "one learning rate for all"),
        (
            {"scheduler": {"type": "WarmupLR"}},
            ("--lr_scheduler_type", "cosine"),
            "--lr_scheduler_type is cosine",
        ),
    ],
)
def test_sections_that_override_flags(section, words, message):
    assert message in fault(STAGE2 | section, *words)


def test_custom_scheduler_is_logged(caplog):
    parsed(STAGE2 | {"scheduler": {"type": "WarmupLR"}})
    assert "used instead of --lr_scheduler_type linear" in caplog.text
    caplog.clear()
    parsed(STAGE2 | {"scheduler": {"type": "WarmupDecayLR"}})
    assert caplog.text == ""


@pytest.mark.parametrize("settings", [None, "settings.json"])
def test_fp16_on_a_cpu(monkeypatch, settings):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    Path("settings.json").write_text(json.dumps(STAGE2 | {"fp16": {"enabled": True}}))
    words = ("--deepspeed", settings) if settings else ()
    with pytest.raises(MGMError, match="--fp16 True: not supported on a CPU; leave it"):
        parse_arguments([*NEEDED, "--output_dir", "c", "--fp16", "True", *words])


def test_single_process_without_a_launcher(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    environment = {}
    monkeypatch.setattr("mgm.train.distributed.deepspeed_start.os.environ", environment)
    set_single_process_env()
    assert environment.keys() == set(VARIABLES)
    assert environment["WORLD_SIZE"] == "1"
    assert "training in a single process" in caplog.text
    environment["MASTER_PORT"] = "of the launcher"
    set_single_process_env()
    assert environment["MASTER_PORT"] == "of the launcher"
    assert os.environ is environment


def test_later_errors_of_deepspeed_are_one_line():
    expected = r"^--deepspeed: DeepSpeed could not start \(ValueError: a b\); change its settings$"
    with pytest.raises(MGMError, match=expected), deepspeed_errors(lambda: True):
        raise ValueError("a\nb")
    with pytest.raises(ValueError, match=r"^a$"), deepspeed_errors(lambda: False):
        raise ValueError("a")
