"""Comparison of a resumed run with the earlier one: flag by flag, and data by content."""

import json
import logging
import re
from pathlib import Path

import pytest

from mgm.errors import MGMError
from mgm.train.args.validation import parse_arguments
from mgm.train.checkpointing.flag_policy import FLAG_POLICIES, Policy
from mgm.train.checkpointing.run_fingerprint import (
    FINGERPRINT_FORMAT,
    check_fingerprint,
    check_flags,
    fingerprint_of_flags,
    write_fingerprint,
)

NEEDED = ("--model_name_or_path", "a", "--data_path", "b", "--output_dir", "c")

# Another value for each flag that affects the result.
CHANGED = {
    "tune_mm_mlp_adapter": "True",
    "freeze_mm_mlp_adapter": "True",
    "freeze_backbone": "True",
    "optimize_vision_tower": "True",
    "optimize_vision_tower_aux": "True",
    "drop_path": "True",
    "data_config": "part",
    "data_split": "test",
    "streaming": "True --max_steps 9",
    "image_orientation": "upright",
    "per_device_train_batch_size": "3",
    "gradient_accumulation_steps": "3",
    "average_tokens_across_devices": "False",
    "group_by_modality_length": "True",
    "group_by_length": "True",
    "packing": "True",
    "seed": "7",
    "data_seed": "7",
    "dataloader_drop_last": "True",
    "dataloader_in_order": "False",
    "accelerator_config": '{"even_batches":false}',
    "learning_rate": "0.5",
    "lr_scheduler_type": "cosine",
    "lr_scheduler_kwargs": '{"num_cycles":2}',
    "warmup_steps": "7",
    "warmup_ratio": "0.5",
    "mm_projector_lr": "0.5",
    "lr_multi": "model.mm_projector:2",
    "optim": "adafactor",
    "optim_args": "a=1",
    "optim_target_modules": "all-linear",
    "weight_decay": "0.5",
    "adam_beta1": "0.5",
    "adam_beta2": "0.5",
    "adam_epsilon": "0.5",
    "max_grad_norm": "0.5",
    "neftune_noise_alpha": "5",
    "bf16": "True",
    "bits": "4 --lora_enable True",
    "double_quant": "False",
    "quant_type": "fp4",
    "lora_enable": "True",
    "lora_r": "7",
    "lora_alpha": "7",
    "lora_dropout": "0.5",
    "lora_bias": "all",
    "use_dora": "True --lora_enable True",
    "version": "v1",
    "model_max_length": "77",
    "image_aspect_ratio": "square",
    "image_size_aux": "77",
    "image_grid": "7",
    "image_global": "True",
    "fusion": "pool",
    "mm_projector_type": "linear",
    "mm_vision_select_layer": "-7",
    "mm_vision_select_feature": "cls_patch",
    "fsdp": "full_shard",
}
BEYOND = {"fp16", "deepspeed"}  # these need a GPU or a file; see the tests of DeepSpeed


@pytest.fixture(autouse=True)
def cpu_with_bfloat16(monkeypatch):
    monkeypatch.setattr("mgm.train.args.arguments.cpu_has_bfloat16", lambda: True)


def flags(*words: str) -> dict:
    return fingerprint_of_flags(parse_arguments([*NEEDED, "--report_to", "none", *words]))


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Path:
    """The checkpoint of a run with default flags."""
    folder = tmp_path_factory.mktemp("checkpoint-4")
    of_config = {f"--{n}": "folder's" for n, p in FLAG_POLICIES.items() if p is Policy.CONFIG}
    write_fingerprint({"format": FINGERPRINT_FORMAT} | flags() | of_config, folder)
    return folder


def test_every_fixed_flag_is_tested():
    deciding = {n for n, p in FLAG_POLICIES.items() if p in (Policy.REFUSE, Policy.CONFIG)}
    assert deciding - CHANGED.keys() - BEYOND == set()


@pytest.mark.parametrize("name", CHANGED)
def test_changed_flags_are_errors(before, name):
    with pytest.raises(MGMError, match="was made by another run") as caught:
        check_flags(flags(f"--{name}", *CHANGED[name].split(" ")), before)
    assert re.search(rf"--{name}(/--\w+)? was ", str(caught.value))


def test_equal_flags(before, caplog):
    caplog.set_level(logging.INFO)
    check_flags(flags(), before)
    check_fingerprint(json.loads((before / "run.json").read_text()), before)
    assert caplog.text == ""


def test_error_has_old_and_new_value(before):
    with pytest.raises(MGMError, match=r"\(--learning_rate was 5e-05, is 0.5\); repeat its flags"):
        check_flags(flags("--learning_rate", "0.5"), before)


def test_default_of_data_seed(before):
    check_flags(flags("--data_seed", "42"), before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("save_steps", "7"),
        ("logging_steps", "7"),
        ("gradient_checkpointing", "True"),
        ("on_bad_sample", "skip"),
        ("attn_implementation", "eager"),
        ("torch_compile", "True"),
    ],
)
def test_harmless_changes_are_logged(before, caplog, name, value):
    caplog.set_level(logging.INFO)
    now = json.loads((before / "run.json").read_text()) | flags(f"--{name}", value)
    check_flags(now, before)
    check_fingerprint(now, before)
    assert f"--{name} was " in caplog.text


def test_ignored_flags(before):
    check_flags(flags("--max_steps", "9", "--dataloader_num_workers", "3"), before)
    check_flags(flags("--num_train_epochs", "9", "--output_dir", "d"), before)


def entry(sha: str | None, path: str = "a.json") -> dict:
    return {"path": path, "sha256": sha}


def changed(tmp_path: Path, old: dict, new: dict) -> None:
    write_fingerprint({"format": FINGERPRINT_FORMAT, "processes": 1} | old, tmp_path)
    check_fingerprint({"format": FINGERPRINT_FORMAT, "processes": 1} | new, tmp_path)


def test_data_content(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    name = "--data_path"
    changed(tmp_path, {name: entry("1" * 64)}, {name: entry("1" * 64, "/moved/a.json")})
    assert "--data_path a.json is at /moved/a.json now" in caplog.text
    with pytest.raises(MGMError, match=r"--data_path was a.json \(sha256 1{8}\), is a.json \(sha"):
        changed(tmp_path, {name: entry("1" * 64)}, {name: entry("2" * 64)})
    with pytest.raises(MGMError, match=r"--data_path part 0 was left out, is b\.json"):
        changed(tmp_path, {name: entry("1" * 64)}, {f"{name} part 0": entry("1" * 64, "b.json")})
    with pytest.raises(MGMError, match=r"weight of --data_path part 0 was 1.0, is 2.0"):
        changed(tmp_path, {f"weight of {name} part 0": 1.0}, {f"weight of {name} part 0": 2.0})
    with pytest.raises(MGMError, match="number of samples was 4, is 5"):
        changed(tmp_path, {"items": 4}, {"items": 5})
    write_fingerprint({"format": FINGERPRINT_FORMAT, "processes": 1}, tmp_path)
    with pytest.raises(MGMError, match="number of processes was 1, is 2"):
        check_flags({"processes": 2}, tmp_path)


def test_changed_eval_data_is_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    name = "--eval_data_path"
    changed(tmp_path, {name: entry("1" * 64)}, {name: entry("2" * 64, "b.json")})
    assert "--eval_data_path was a.json (sha256 11111111), is b.json" in caplog.text


def test_added_or_removed_eval_data_is_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    changed(tmp_path, {}, {"--eval_data_path": entry("2" * 64, "b.json")})
    assert "--eval_data_path was left out, is b.json" in caplog.text
    changed(tmp_path, {"--eval_data_path": entry("2" * 64, "b.json")}, {})
    assert "--eval_data_path was b.json (sha256 22222222), is left out" in caplog.text


def test_digests_of_an_older_version(tmp_path, caplog):
    """They cover other files, so that equal weights would seem to differ."""
    write_fingerprint({"format": 2, "processes": 1, "--data_path": entry("1" * 64)}, tmp_path)
    check_fingerprint(
        {"format": FINGERPRINT_FORMAT, "processes": 1, "--data_path": entry("2" * 64)}, tmp_path
    )
    assert "cannot be compared with this run in --data_path" in caplog.text


def test_missing_initial_weights(tmp_path, caplog):
    name = "--model_name_or_path"
    changed(tmp_path, {name: entry("1" * 64, "base")}, {name: entry(None, "base")})
    assert "cannot be compared with this run in base" in caplog.text
    with pytest.raises(MGMError, match="--model_name_or_path was base"):
        changed(tmp_path, {name: entry(None, "base")}, {name: entry(None, "other")})


def test_older_fingerprint(tmp_path, caplog):
    old = {"--seed": 42, "--data_seed": None, "--fsdp": False, "processes": 1, "items": 12}
    (tmp_path / "run.json").write_text(json.dumps(old))
    now = {"format": FINGERPRINT_FORMAT} | flags() | {"items": 12, "--data_path": entry("1" * 64)}
    check_flags(now, tmp_path)
    check_fingerprint(now, tmp_path)
    (line,) = caplog.messages
    assert "cannot be compared with this run in" in line
    assert "--adam_beta1" in line
    assert re.search(r" and \d\d more$", line)
    assert len(line) < 400
    with pytest.raises(MGMError, match="--seed was 42, is 7"):
        check_flags(flags("--seed", "7"), tmp_path)
    with pytest.raises(MGMError, match="number of samples was 12, is 13"):
        check_fingerprint(now | {"items": 13}, tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1}', "null"])
def test_damaged_fingerprint(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(MGMError, match=r"run\.json: .*copy it again") as caught:
        check_flags(flags(), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (None, "--deepspeed"),
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage of --deepspeed"),
        (
            {"zero_optimization": {"stage": 2}, "optimizer": {"type": "Lamb"}},
            "optimizer of --deepspeed",
        ),
        (
            {"zero_optimization": {"stage": 2}, "scheduler": {"type": "WarmupLR"}},
            "scheduler of --deepspeed",
        ),
    ],
)
def test_deepspeed_settings(tmp_path, settings, name):
    def divided(given: dict | None) -> dict:
        arguments = parse_arguments([*NEEDED, "--report_to", "none"])
        arguments[2].deepspeed = given
        return fingerprint_of_flags(arguments)

    write_fingerprint(divided({"zero_optimization": {"stage": 2}}), tmp_path)
    check_flags(
        divided({"zero_optimization": {"stage": 2, "overlap_comm": True}, "steps_per_print": 7}),
        tmp_path,
    )
    with pytest.raises(MGMError, match=f"{name} was "):
        check_flags(divided(settings), tmp_path)
