"""Reads DeepSpeed's JSON config, fills in "auto", and checks it against the training flags.

"auto" means a flag's value. A missing field is "auto" too, where DeepSpeed's own default would
silently override a flag.
"""

import json
import logging
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import transformers

from mgm.errors import MGMError, one_line, prefix_errors

logger = logging.getLogger(__name__)

AUTO = "auto"
Settings = dict[str, Any]

EXAMPLE = "give a JSON file of DeepSpeed settings, such as scripts/zero2.json"
# Fields of the config, and the flag that must have the same value.
FLAG_OF_DEEPSPEED_FIELD = (
    ("train_micro_batch_size_per_gpu", "--per_device_train_batch_size"),
    ("gradient_accumulation_steps", "--gradient_accumulation_steps"),
    ("gradient_clipping", "--max_grad_norm"),
    ("fp16.enabled", "--fp16"),
    ("bf16.enabled", "--bf16"),
    ("optimizer.params.lr", "--learning_rate"),
    ("optimizer.params.eps", "--adam_epsilon"),
    ("optimizer.params.weight_decay", "--weight_decay"),
    ("scheduler.params.warmup_max_lr", "--learning_rate"),
)
AUTO_FIELDS = (
    *("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"),
    "gradient_clipping",
)
ADAM_PARAMS = ("lr", "betas", "eps", "weight_decay")
SCHEDULER_PARAMS = {
    "WarmupLR": ("warmup_min_lr", "warmup_max_lr", "warmup_num_steps"),
    "WarmupDecayLR": ("warmup_min_lr", "warmup_max_lr", "warmup_num_steps", "total_num_steps"),
    "WarmupCosineLR": ("warmup_num_steps", "total_num_steps"),
}
FLAG_OF_SCHEDULE = {
    "WarmupLR": "constant_with_warmup",
    "WarmupDecayLR": "linear",
    "WarmupCosineLR": "cosine",
}
# Without it ZeRO-3 saves no weights, neither in checkpoints nor at the end.
GATHER_ON_SAVE = "stage3_gather_16bit_weights_on_model_save"
OLD_GATHER_ON_SAVE = "stage3_gather_fp16_weights_on_model_save"  # the older name
# Fields that DeepSpeed reads elsewhere than in `DeepSpeedConfig`.
READ_ELSEWHERE = {
    *("train_batch_size", "tensor_parallel", "sequence_parallel_size"),
    *("amp", "elasticity", "autotuning", "nebula", "compile"),
}


def settings_label(given: str | Settings) -> str:
    """The prefix of errors about the config."""
    file = isinstance(given, str) and not given.lstrip().startswith("{")
    return f"--deepspeed {given}" if file else "--deepspeed"


def read_deepspeed_config(given: str | Settings) -> Settings:
    """The config of `--deepspeed`, with "auto" in missing fields.

    Args:
        given: path of a file, JSON, or the config itself.

    Raises:
        MGMError: the file cannot be read, or is not a config.
    """
    with prefix_errors(settings_label(given)):
        settings = json.loads(json.dumps(given)) if isinstance(given, dict) else _parsed(given)
        if not isinstance(settings, dict):
            raise MGMError(f"contains a {type(settings).__name__}, not an object; {EXAMPLE}")
        if "zero_optimization" not in settings:
            close = get_close_matches("zero_optimization", settings, n=1)
            hint = f"did you mean that by {close[0]}?" if close else EXAMPLE
            raise MGMError(f"has no zero_optimization, the section of the ZeRO stage; {hint}")
        zero = _section(settings, "zero_optimization")
        if type(stage := zero.get("stage", 0)) is not int:
            raise MGMError(
                f"zero_optimization.stage is {json.dumps(stage)}; give a number from 0 to 3"
            )
        if stage == 3 and zero.get(GATHER_ON_SAVE, AUTO) == AUTO:
            zero[GATHER_ON_SAVE] = zero.pop(OLD_GATHER_ON_SAVE, True)
        for field in AUTO_FIELDS:
            settings.setdefault(field, AUTO)
        for section in ("fp16", "bf16"):
            _section(settings, section).setdefault("enabled", AUTO)
        for section in ("optimizer", "scheduler"):
            if section in settings:
                _complete_section(_section(settings, section), section)
    return settings


def _parsed(given: str) -> Any:
    try:
        text = given if given.lstrip().startswith("{") else Path(given).read_text("utf-8-sig")
        return json.loads(text)
    except OSError as error:
        reason = one_line(error.strerror or error)
        raise MGMError(f"cannot be read ({reason}); {EXAMPLE}") from error
    except (ValueError, RecursionError) as error:
        raise MGMError(f"is not valid JSON ({one_line(error)}); {EXAMPLE}") from error


def _section(settings: Settings, name: str) -> Settings:
    section = settings.setdefault(name, {})
    if not isinstance(section, dict):
        raise MGMError(f"{name} is {json.dumps(section)}; give an object, as in {{...}}")
    return section


def _complete_section(section: Settings, name: str) -> None:
    kind = section.get("type")
    if not isinstance(kind, str):
        raise MGMError(f"{name}.type is missing; add it, or leave the section out to use the flags")
    params = _section(section, "params")
    fields = ("lr", "weight_decay") if name == "optimizer" else SCHEDULER_PARAMS.get(kind, ())
    if name == "optimizer" and "adam" in kind.lower():
        fields = ADAM_PARAMS
    for field in fields:
        params.setdefault(field, AUTO)


def check_deepspeed_config(
    settings: Settings, arguments: transformers.TrainingArguments, name: str
) -> None:
    """Check a config against the flags, and have DeepSpeed parse it.

    Args:
        settings: settings from `read_deepspeed_config`.
        arguments: the flags; `world_size` and device are set.
        name: prefix of errors.

    Raises:
        MGMError: a field disagrees with its flag, or is unknown or invalid.
    """
    with prefix_errors(name):
        if wrong := [*_mismatches(settings, arguments)]:
            raise MGMError(
                f"settings disagree with flags: {'; '.join(wrong)}; write {json.dumps(AUTO)} for "
                "them in the settings, or change the flags"
            )
        _check_sections(settings, arguments)
        _check_offload(settings["zero_optimization"])
        _check_gathered(settings["zero_optimization"])
        _check_by_deepspeed(settings)


def _check_gathered(zero: Settings) -> None:
    if zero.get("stage") == 3 and not zero[GATHER_ON_SAVE]:
        raise MGMError(
            f"zero_optimization.{GATHER_ON_SAVE} is {json.dumps(zero[GATHER_ON_SAVE])}: neither "
            "checkpoints nor the result would have weights; write true, or leave it out"
        )


def _check_offload(zero: Settings) -> None:
    stage = zero.get("stage", 0)
    for name in ("offload_optimizer", "offload_param"):
        offload = zero.get(name) or {}
        device = offload.get("device") if isinstance(offload, dict) else None
        if device == "nvme" and not offload.get("nvme_path"):
            raise MGMError(
                f"zero_optimization.{name} is on nvme, without nvme_path; name a folder there, or "
                'take "device": "cpu"'
            )
        if stage != 3 and (device == "nvme" or (name == "offload_param" and device == "cpu")):
            raise MGMError(
                f"zero_optimization.{name} on {device} needs stage 3, and stage is {stage}; write "
                '"stage": 3, or leave it out'
            )


def _mismatches(settings: Settings, arguments: transformers.TrainingArguments) -> Iterator[str]:
    for field, flag in FLAG_OF_DEEPSPEED_FIELD:
        value = _field(settings, field)
        if value not in (None, AUTO) and value != getattr(arguments, flag[2:]):
            yield f"{field} is {json.dumps(value)}, {flag} is {getattr(arguments, flag[2:])}"
    betas = [arguments.adam_beta1, arguments.adam_beta2]
    if (value := _field(settings, "optimizer.params.betas")) not in (None, AUTO, betas):
        yield f"optimizer.params.betas is {value}, --adam_beta1 and --adam_beta2 are {betas}"
    per_device, steps = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    samples = arguments.world_size * per_device * steps
    if (value := settings.get("train_batch_size")) not in (None, AUTO, samples):
        yield (
            f"train_batch_size is {json.dumps(value)}, {arguments.world_size} processes x "
            f"--per_device_train_batch_size {per_device} x --gradient_accumulation_steps {steps} "
            f"are {samples}"
        )
    if "bfloat16" in settings:
        yield "bfloat16 is an old name of bf16, which --bf16 decides"


def _field(settings: Settings, name: str) -> Any:
    value: Any = settings
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _check_sections(settings: Settings, arguments: transformers.TrainingArguments) -> None:
    """Refuse an optimizer or a schedule of DeepSpeed that would override an explicit flag."""
    if optimizer := _field(settings, "optimizer.type"):
        for name in ("mm_projector_lr", "lr_multi"):
            if getattr(arguments, name, None):
                raise MGMError(
                    f"--{name}: DeepSpeed's optimizer ({optimizer}) has one learning rate for all "
                    "parameters; leave the section optimizer out of the settings"
                )
        flag = getattr(arguments.optim, "value", arguments.optim)
        if not ("adam" in optimizer.lower() and str(flag).startswith("adamw_torch")):
            _override("optimizer", optimizer, "optim", flag, "adamw_torch")
    if scheduler := _field(settings, "scheduler.type"):
        flag = getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type)
        if FLAG_OF_SCHEDULE.get(scheduler) != flag:
            _override("scheduler", scheduler, "lr_scheduler_type", flag, "linear")


def _override(section: str, kind: str, name: str, flag: str, default: str) -> None:
    """Log that the config overrides a flag's default; an explicit flag is an error."""
    if flag != default:
        raise MGMError(
            f"{section}.type is {kind}, --{name} is {flag}; leave the section "
            f"{section} out of the settings, or the flag"
        )
    logger.warning(
        "--deepspeed: the settings have a section %s (%s), which is used instead of --%s %s",
        *(section, kind, name, flag),
    )


class _Recorder(dict[str, Any]):
    """A dict that records which keys are looked up."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.read: set[str] = set()

    def get(self, key: object, default: Any = None, /) -> Any:
        self.read.add(str(key))
        return super().get(str(key), default)

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.read.add(str(key))
        return super().__contains__(key)

    def __copy__(self) -> "_Recorder":
        copy = _Recorder(self)
        copy.read = self.read
        return copy


def _check_by_deepspeed(settings: Settings) -> None:
    """Have DeepSpeed parse the config; keys that it does not look up are unknown."""
    from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError

    given = _Recorder(_without_auto(settings))
    given.pop("train_batch_size", None)  # depends on the number of processes
    given.setdefault("train_micro_batch_size_per_gpu", 1)
    try:
        DeepSpeedConfig(given)
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
        raise MGMError(f"DeepSpeed refuses the settings ({_reason(error)})") from error
    except DeepSpeedConfigError as error:
        raise MGMError(f"DeepSpeed refuses the settings ({_reason(error)})") from error
    fields = given.read | READ_ELSEWHERE
    for name in settings:
        if name not in fields:
            close = get_close_matches(name, fields, n=1)
            hint = f"did you mean {close[0]}?" if close else "leave it out"
            raise MGMError(f"{name} is not a field of DeepSpeed's settings; {hint}")


def _without_auto(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_auto(part) for key, part in value.items() if part != AUTO}
    return value


def _reason(error: Exception) -> str:
    errors = getattr(error, "errors", None)  # a pydantic ValidationError
    if callable(errors):
        entries = errors(include_url=False)
        return "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in entries)
    return f"{one_line(error) or type(error).__name__}; correct them"
