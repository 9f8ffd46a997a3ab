"""Parses the command line of a training and validates its flags."""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn, cast

from transformers import HfArgumentParser

from mgm.data.images.orientation import check_orientation
from mgm.data.sources.bad_samples import BAD_SAMPLE_POLICIES
from mgm.errors import MGMError, one_line
from mgm.model.files.json_fields import shortened
from mgm.model.vision.fusion.fusion_config import FusionConfig
from mgm.train.args.arguments import (
    BIT_WIDTHS,
    NO_QUANTIZATION,
    QUANT_TYPES,
    DataArguments,
    ModelArguments,
    TrainingArguments,
)
from mgm.train.distributed.fsdp import check_fsdp_support

Arguments = tuple[ModelArguments, DataArguments, TrainingArguments]

USAGE = """python -m mgm.train --model_name_or_path FOLDER --data_path FILE --output_dir FOLDER ...

stage 1: python -m mgm.train --tune_mm_mlp_adapter True --version plain \\
           --model_name_or_path LANGUAGE_MODEL --vision_tower CLIP --vision_tower_aux CONVNEXT \\
           --mm_projector_type mlp2x_gelu --mm_vision_select_layer -2 --image_size_aux 768 \\
           --data_path pretrain.json --image_folder images --output_dir work_dirs/stage1
stage 2: python -m mgm.train --model_name_or_path work_dirs/stage1 --version v1 \\
           --image_aspect_ratio pad --group_by_modality_length True \\
           --data_path instruct.json --image_folder images --output_dir work_dirs/stage2
"""

_LATER = "is not supported yet; leave it out"

# Flags that are rejected unless they have their default, and why.
UNSUPPORTED_FLAGS = {
    "mm_use_im_start_end": "is not supported yet, and no published model uses it; leave it out",
    "mm_use_im_patch_token": "would add a token that nothing uses; leave it out",
    "image_processor": "does nothing: there is one image processor; leave it out",
    "image_grid_pinpoints": "does nothing: it was published but never used; leave it out",
    "lazy_preprocess": "must stay True: samples are always preprocessed when they are loaded",
    "is_multimodal": "does nothing: the samples decide it; leave it out",
    "remove_unused_columns": "must stay False: samples have exactly the model's inputs",
    "cache_dir": "does nothing here; set the environment variable HF_HOME",
    "mpt_attn_impl": "does nothing: MPT is not a language model of Mini-Gemini; leave it out",
    "do_predict": "does nothing: a run trains, and is evaluated by --eval_strategy; leave it out",
    "load_best_model_at_end": "is not supported; trainer_state.json has the eval_loss of each step",
    # transformers does not treat the model as a causal LM, and would not shift the labels.
    "label_smoothing_factor": _LATER,
    "push_to_hub": _LATER,
    "auto_find_batch_size": _LATER,
    "train_sampling_strategy": f"{_LATER} (--group_by_modality_length True groups by length)",
    "parallelism_config": _LATER,
    "fsdp_config": "does nothing: --fsdp full_shard has no settings; leave it out",
}

# Minimum and maximum.
_RANGES = {
    "per_device_train_batch_size": (1, math.inf),
    "gradient_accumulation_steps": (1, math.inf),
    "model_max_length": (1, math.inf),
    "learning_rate": (0, math.inf),
    "mm_projector_lr": (0, math.inf),
    "weight_decay": (0, math.inf),
    "max_grad_norm": (0, math.inf),
    "num_train_epochs": (0, math.inf),
    "dataloader_num_workers": (0, math.inf),
    **dict.fromkeys(("seed", "data_seed"), (0, 2**32 - 1)),  # range of numpy's seeds
}

_REQUIRED = ("model_name_or_path", "data_path", "output_dir")
# Flags with a path; --deepspeed, which may also be JSON, is read by its own function.
_PATHS = (
    *("model_name_or_path", "vision_tower", "vision_tower_aux", "pretrain_mm_mlp_adapter"),
    *("data_path", "image_folder", "eval_data_path", "eval_image_folder", "eval_benchmark_dir"),
    *("output_dir", "lora_weight_path", "resume_from_checkpoint"),
)


class _Parser(HfArgumentParser):
    """Raises errors as MGMError."""

    def error(self, message: str) -> NoReturn:
        raise MGMError(message)


def parse_arguments(argv: Sequence[str] | None = None) -> Arguments:
    """Parse and validate the flags of a training.

    Args:
        argv: flags and values; None: those of the command line.

    Raises:
        MGMError: a flag is unknown, missing, or has an invalid value.
    """
    model, data, training = parse_flags(list(sys.argv[1:] if argv is None else argv))
    for part in (model, data, training):
        for name in _PATHS:
            _check_path(name, getattr(part, name, None))
    if data.on_bad_sample not in BAD_SAMPLE_POLICIES:
        raise MGMError(
            f"--on_bad_sample {data.on_bad_sample}: choose {' or '.join(BAD_SAMPLE_POLICIES)}"
        )
    check_orientation(data.image_orientation, "--image_orientation")
    if model.fusion is not None:
        FusionConfig.from_flag(model.fusion)
    _check_numbers(training)
    _check_combinations(model, training)
    _check_lora(model, training)
    if data.streaming and training.max_steps <= 0:
        raise MGMError("--streaming True: a stream has no length; set --max_steps N")
    _check_evaluation(data, training)
    for part in (model, data, training):
        _check_supported(part)
    for name in _REQUIRED:
        if not any(getattr(part, name, None) for part in (model, data, training)):
            raise MGMError(f"--{name} is missing; see python -m mgm.train --help")
    return model, data, training


def parse_flags(argv: Sequence[str]) -> Arguments:
    """Parse flags without validating their combination.

    Raises:
        MGMError: a flag is unknown, or its value has another type.
    """
    parser = _parser()
    _check_known(parser, argv)
    try:
        parsed = parser.parse_args_into_dataclasses(list(argv), look_for_args_file=False)
    except (ValueError, ImportError, OSError) as error:
        if isinstance(error, MGMError):
            raise
        raise MGMError(one_line(error)) from error
    return cast(Arguments, parsed)


def check_flag_names(names: Iterable[str]) -> None:
    """Raise an MGMError unless these are training flags; names without the two dashes."""
    _check_known(_parser(), [f"--{name}" for name in names])


def _parser() -> "_Parser":
    return _Parser(
        [ModelArguments, DataArguments, TrainingArguments],  # ty: ignore[invalid-argument-type]
        prog="python -m mgm.train",
        usage=USAGE,
        allow_abbrev=False,
    )


def _check_known(parser: HfArgumentParser, argv: Sequence[str]) -> None:
    flags = set(parser._option_string_actions)
    for argument in argv:
        flag = argument.split("=", 1)[0]
        if flag.startswith("--") and flag not in flags:
            close = get_close_matches(flag, flags, n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise MGMError(f"{flag} is not a flag of python -m mgm.train{hint}")


def _check_supported(part: ModelArguments | DataArguments | TrainingArguments) -> None:
    for entry in fields(part):
        value = getattr(part, entry.name)
        if entry.name in UNSUPPORTED_FLAGS and value not in (entry.default, None):
            raise MGMError(f"--{entry.name} {value}: {UNSUPPORTED_FLAGS[entry.name]}")


def _check_path(name: str, value: str | None) -> None:
    """Reject a path that the file system cannot look up, such as one that is too long."""
    try:
        Path(value or ".").stat()
    except (FileNotFoundError, NotADirectoryError):
        return  # reported by its reader
    except (OSError, ValueError) as error:
        reason = one_line(getattr(error, "strerror", None) or error)
        raise MGMError(
            f"--{name} {shortened(str(value))}: cannot be used as a path ({reason}); give another"
        ) from error


def _check_evaluation(data: DataArguments, training: TrainingArguments) -> None:
    """Check the flags of validation and of benchmarks."""
    evaluates = getattr(training.eval_strategy, "value", training.eval_strategy) != "no"
    if evaluates and not data.eval_data_path:
        raise MGMError("--eval_strategy: there is no validation data; give --eval_data_path")
    given = {
        "eval_data_path": data.eval_data_path,
        "eval_image_folder": data.eval_image_folder,
        "eval_num_generations": data.eval_num_generations,
        "do_eval": training.do_eval,
        "eval_on_start": training.eval_on_start,
    }
    for name, value in given.items():
        if value and not evaluates:
            raise MGMError(f"--{name} does nothing without --eval_strategy steps or epoch")
    if data.eval_benchmark_limit < 0:
        raise MGMError(f"--eval_benchmark_limit {data.eval_benchmark_limit}: give a number from 0")
    if data.eval_benchmarks is None and data.eval_benchmark_limit:
        raise MGMError("--eval_benchmark_limit does nothing without --eval_benchmarks")
    saves = getattr(training.save_strategy, "value", training.save_strategy) != "no"
    if data.eval_benchmarks and not saves:
        raise MGMError(
            "--eval_benchmarks: checkpoints are evaluated, and --save_strategy no writes none; "
            "use steps or epoch"
        )
    if data.eval_num_generations < 0:
        raise MGMError(f"--eval_num_generations {data.eval_num_generations}: give a number from 0")
    if data.eval_num_generations and (training.use_fsdp or training.is_zero3):
        raise MGMError(
            "--eval_num_generations: no process has the full model under ZeRO-3 or --fsdp; leave "
            "it out, or use ZeRO-2"
        )


def _check_numbers(training: TrainingArguments) -> None:
    """Check numbers against their ranges; NaN and infinity are rejected too."""
    for name, (low, high) in _RANGES.items():
        value = getattr(training, name)
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            end = f" to {high}" if high < math.inf else ""
            raise MGMError(f"--{name} {value}: give a number from {low}{end}")
    if training.max_steps < 1 and training.max_steps != -1:  # -1: --num_train_epochs decides
        raise MGMError(
            f"--max_steps {training.max_steps}: give a number from 1, or leave it out for "
            "--num_train_epochs"
        )
    if not 0 <= training.warmup_ratio < 1:
        raise MGMError(f"--warmup_ratio {training.warmup_ratio}: give a number from 0 to below 1")


def _check_combinations(model: ModelArguments, training: TrainingArguments) -> None:
    """Reject flags that contradict each other, or that have no effect without another one."""
    if training.mm_projector_lr is not None and training.lr_multi:
        raise MGMError("--lr_multi would be ignored beside --mm_projector_lr; give one of them")
    if training.group_by_length and (training.packing or training.group_by_modality_length):
        other = "packing" if training.packing else "group_by_modality_length"
        raise MGMError(f"--group_by_length beside --{other}: choose one of them")
    if training.selective_checkpointing and not training.gradient_checkpointing:
        raise MGMError(
            "--selective_checkpointing does nothing without --gradient_checkpointing True"
        )
    if training.use_fsdp:
        check_fsdp_support()
    if model.tune_mm_mlp_adapter and model.freeze_backbone:
        raise MGMError(
            "--freeze_backbone does nothing beside --tune_mm_mlp_adapter; leave one of them out"
        )


def _check_lora(model: ModelArguments, training: TrainingArguments) -> None:
    """Check the flags of LoRA and QLoRA."""
    if model.tune_mm_mlp_adapter and training.lora_enable:
        raise MGMError(
            "--lora_enable: stage 1 (--tune_mm_mlp_adapter) does not train the language model; "
            "leave one of them out"
        )
    if training.bits not in BIT_WIDTHS or training.quant_type not in QUANT_TYPES:
        raise MGMError(
            f"--bits {training.bits} --quant_type {training.quant_type}: choose one of "
            f"{', '.join(map(str, BIT_WIDTHS))}, and {' or '.join(QUANT_TYPES)}"
        )
    if training.bits != NO_QUANTIZATION and not training.lora_enable:
        raise MGMError(
            f"--bits {training.bits}: quantised weights are not trained; train a LoRA with "
            "--lora_enable True, or leave it out"
        )
    if training.bits != NO_QUANTIZATION and training.use_fsdp:
        raise MGMError(f"--bits {training.bits} beside --fsdp: quantised weights are not sharded")
    for name in ("lora_weight_path", "use_dora"):
        if getattr(training, name) and not training.lora_enable:
            raise MGMError(f"--{name} does nothing without --lora_enable True")
