"""The command line: published flags, their former names, and errors."""

import pytest
import torch
import transformers

from mgm.errors import MGMError
from mgm.train.args.validation import _PATHS, parse_arguments

NEEDED = ["--model_name_or_path", "a", "--data_path", "b", "--output_dir", "c"]


def parsed(*words: str):
    return parse_arguments([*NEEDED, *words])


def test_published_names_of_renamed_flags(monkeypatch) -> None:
    monkeypatch.setattr("mgm.train.args.arguments.cpu_has_bfloat16", lambda: True)
    *_, training = parsed(
        *("--evaluation_strategy", "no", "--warmup_ratio", "0.03", "--bf16", "True"),
        *("--gradient_checkpointing", "True", "--weight_decay", "0."),
    )
    assert training.get_warmup_steps(1000) == 30
    assert training.bf16
    assert training.gradient_checkpointing
    *_, training = parsed("--eval_strategy", "no", "--warmup_steps", "7", "--warmup_ratio", "0.03")
    assert training.get_warmup_steps(1000) == 7


def test_booleans_of_published_scripts() -> None:
    model, data, training = parsed(
        *("--tune_mm_mlp_adapter", "True", "--mm_use_im_start_end", "False"),
        *("--image_global", "False", "--group_by_modality_length", "False", "--drop_path", "False"),
    )
    assert model.tune_mm_mlp_adapter is True
    assert model.drop_path is False
    assert data.image_global is False
    assert training.group_by_modality_length is False
    assert parsed()[1].image_global is None
    assert parsed("--image_global")[1].image_global is True


def test_published_gpu_flags_on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert parsed("--tf32", "True", "--bf16", "True")[2].tf32 is None


@pytest.mark.parametrize("instruction", [None, "amx_bf16", "avx512_bf16"])
def test_bf16_on_a_cpu(instruction, monkeypatch, caplog) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {instruction: True, "avx2": True})
    assert parsed("--bf16", "True")[2].bf16 is (instruction is not None)
    assert ("no instructions for it" in caplog.text) is (instruction is None)


def test_one_device_per_process(monkeypatch) -> None:
    several = property(lambda arguments: 4)
    monkeypatch.setattr(transformers.TrainingArguments, "n_gpu", several)
    assert parsed()[2].n_gpu == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--label_smoothing_factor", "0.1"], "0.1: is not supported yet"),
        (["--mpt_attn_impl", "torch"], "MPT is not a language model"),
        (["--image_grid_pinpoints", "x"], "never used"),
        (["--cache_dir", "x"], "HF_HOME"),
        (["--image_orientation", "up"], "choose one of upright, stored"),
        (["--lazy_preprocess", "False"], "must stay True"),
        (["--mm_use_im_patch_token", "True"], "a token that nothing uses"),
        (["--mm_use_im_start_end", "True"], "not supported yet"),
        (["--evaluation_strategy", "steps"], "give --eval_data_path"),
        (["--do_eval", "True"], "without --eval_strategy"),
        (["--warmup_ratio", "3"], "from 0 to below 1"),
        (["--per_device_train_batch_size", "0"], "--per_device_train_batch_size 0: .* from 1"),
        (["--gradient_accumulation_steps", "0"], "give a number from 1"),
        (["--model_max_length", "-1"], "--model_max_length -1: give a number from 1"),
        (["--seed", "-1"], "--seed -1: give a number from 0 to 4294967295"),
        (["--data_seed", str(2**32)], "--data_seed 4294967296: give a number from 0"),
        (["--learning_rate", "-1"], "--learning_rate -1.0: give a number from 0"),
        (["--learning_rate", "nan"], "--learning_rate nan: give a number from 0"),
        (["--mm_projector_lr", "inf"], "--mm_projector_lr inf: give a number from 0"),
        (["--mm_projector_lr", "1e-5", "--lr_multi", "a:2"], "give one of them"),
        (["--tune_mm_mlp_adapter", "True", "--freeze_backbone", "True"], "leave one of them out"),
        (["--versoin", "v1"], r"--versoin is not a flag.*did you mean --version"),
        (["--save_strategy", "often"], "invalid choice: 'often' .choose from 'no', 'steps'"),
        (["--num_train_epochs", "many"], "invalid float value: 'many'"),
        (["--optim", "adam"], "adam is not a valid OptimizerNames, please select one of"),
        (["--group_by_modality_length", "maybe"], "got maybe but expected one of"),
    ],
)
def test_unsupported_flags(words, message) -> None:
    with pytest.raises(MGMError, match=message) as caught:
        parsed(*words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["model_name_or_path", "data_path", "output_dir"])
def test_missing_flags(missing) -> None:
    index = NEEDED.index(f"--{missing}")
    with pytest.raises(MGMError, match=f"--{missing} is missing"):
        parse_arguments(NEEDED[:index] + NEEDED[index + 2 :])


def test_fsdp_with_an_old_transformers(monkeypatch) -> None:
    monkeypatch.setattr("mgm.train.distributed.fsdp.MIN_TRANSFORMERS", "99")
    message = "^--fsdp: transformers .* is installed, and 99 or later is needed; pip install"
    with pytest.raises(MGMError, match=message):
        parsed("--fsdp", "full_shard")
    assert parsed()[2].use_fsdp is False


def test_help_starts_with_our_flags(capsys) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    shown = capsys.readouterr().out
    assert "stage 1: python -m mgm.train --tune_mm_mlp_adapter True" in shown
    assert shown.index("--vision_tower_aux") < shown.index("--image_grid")
    assert shown.index("--image_grid") < shown.index("--per_device_train_batch_size")


@pytest.mark.parametrize("name", _PATHS)
def test_too_long_path(name):
    given = {"model_name_or_path": "a", "data_path": "b", "output_dir": "c"} | {name: "x" * 5000}
    flags = [word for flag, value in given.items() for word in (f"--{flag}", value)]
    with pytest.raises(MGMError, match=f"^--{name} xxx.*cannot be used as a path") as caught:
        parse_arguments([*flags, "--report_to", "none"])
    assert len(str(caught.value)) < 400
