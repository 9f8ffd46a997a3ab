"""DeepSpeed's settings: read, completed from the flags, and compared with them before a run starts.

"auto" stands for a flag's value. A field that is left out is "auto" too, where DeepSpeed would take
a default of its own and a flag would be ignored.
"""

import json
import logging
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import transformers

from mgm.errors import MGMError, faults_of, one_line

logger = logging.getLogger(__name__)

AUTO = "auto"
Settings = dict[str, Any]

EXAMPLE = "give a JSON file of DeepSpeed settings, such as scripts/zero2.json"
# Fields of the settings, the flags that they repeat, and the attribute that has the flag's value.
SAME = (
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
COMPLETED = (
    *("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"),
    "gradient_clipping",
)
OF_ADAM = ("lr", "betas", "eps", "weight_decay")
OF_SCHEDULER = {
    "WarmupLR": ("warmup_min_lr", "warmup_max_lr", "warmup_num_steps"),
    "WarmupDecayLR": ("warmup_min_lr", "warmup_max_lr", "warmup_num_steps", "total_num_steps"),
    "WarmupCosineLR": ("warmup_num_steps", "total_num_steps"),
}
SAME_SCHEDULE = {
    "WarmupLR": "constant_with_warmup",
    "WarmupDecayLR": "linear",
    "WarmupCosineLR": "cosine",
}
# Without it ZeRO-3 writes no weights, neither in checkpoints nor as the result.
GATHERED = "stage3_gather_16bit_weights_on_model_save"
OLD_GATHERED = "stage3_gather_fp16_weights_on_model_save"  # which DeepSpeed takes too
# Fields of sections that DeepSpeed reads elsewhere than in its class of settings.
READ_ELSEWHERE = {
    *("train_batch_size", "tensor_parallel", "sequence_parallel_size"),
    *("amp", "elasticity", "autotuning", "nebula", "compile"),
}


def settings_label(given: str | Settings) -> str:
    """What errors about settings begin with."""
    file = isinstance(given, str) and not given.lstrip().startswith("{")
    return f"--deepspeed {given}" if file else "--deepspeed"


def read_settings(given: str | Settings) -> Settings:
    """The settings that `--deepspeed` names, completed with "auto".

    Args:
        given: a file's name, JSON, or the settings themselves.

    Raises:
        MGMError: there is no such file, or it does not hold settings.
    """
    with faults_of(settings_label(given)):
        settings = json.loads(json.dumps(given)) if isinstance(given, dict) else _parsed(given)
        if not isinstance(settings, dict):
            raise MGMError(f"holds a {type(settings).__name__}, not an object; {EXAMPLE}")
        if "zero_optimization" not in settings:
            close = get_close_matches("zero_optimization", settings, n=1)
            hint = f"did you mean that by {close[0]}?" if close else EXAMPLE
            raise MGMError(f"has no zero_optimization, which says what is divided; {hint}")
        zero = _section(settings, "zero_optimization")
        if type(stage := zero.get("stage", 0)) is not int:
            raise MGMError(
                f"zero_optimization.stage is {json.dumps(stage)}; give a number from 0 to 3"
            )
        if stage == 3 and zero.get(GATHERED, AUTO) == AUTO:
            zero[GATHERED] = zero.pop(OLD_GATHERED, True)
        for field in COMPLETED:
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
        raise MGMError(
            f"{name}.type is missing; name one, or leave the section out: the flags say it then"
        )
    params = _section(section, "params")
    fields = ("lr", "weight_decay") if name == "optimizer" else OF_SCHEDULER.get(kind, ())
    if name == "optimizer" and "adam" in kind.lower():
        fields = OF_ADAM
    for field in fields:
        params.setdefault(field, AUTO)


def check_settings(
    settings: Settings, arguments: transformers.TrainingArguments, name: str
) -> None:
    """Compare settings with the flags, and have DeepSpeed check them.

    Args:
        settings: as `read_settings` gives them.
        arguments: the flags; where processes and devices are known.
        name: what errors begin with.

    Raises:
        MGMError: a field has another value than its flag, or is unknown or wrong.
    """
    with faults_of(name):
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
    if zero.get("stage") == 3 and not zero[GATHERED]:
        raise MGMError(
            f"zero_optimization.{GATHERED} is {json.dumps(zero[GATHERED])}: neither checkpoints "
            "nor the result would have weights; write true, or leave it out"
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
    for field, flag in SAME:
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
    found: Any = settings
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _check_sections(settings: Settings, arguments: transformers.TrainingArguments) -> None:
    """See whether an optimizer or a schedule of DeepSpeed leaves a flag without effect."""
    if optimizer := _field(settings, "optimizer.type"):
        for name in ("mm_projector_lr", "lr_multi"):
            if getattr(arguments, name, None):
                raise MGMError(
                    f"--{name}: DeepSpeed's optimizer ({optimizer}) has one learning rate for all "
                    "parameters; leave the section optimizer out of the settings"
                )
        flag = getattr(arguments.optim, "value", arguments.optim)
        if not ("adam" in optimizer.lower() and str(flag).startswith("adamw_torch")):
            _replaced("optimizer", optimizer, "optim", flag, "adamw_torch")
    if scheduler := _field(settings, "scheduler.type"):
        flag = getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type)
        if SAME_SCHEDULE.get(scheduler) != flag:
            _replaced("scheduler", scheduler, "lr_scheduler_type", flag, "linear")


def _replaced(section: str, kind: str, name: str, flag: str, default: str) -> None:
    """A default gives way to the settings, and it is logged; a flag that was given does not."""
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
    """Settings that know which of their fields were looked for."""

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
        made = _Recorder(self)
        made.read = self.read
        return made


def _check_by_deepspeed(settings: Settings) -> None:
    """Have DeepSpeed read the settings; fields that it does not look for are unknown to it."""
    from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError

    given = _Recorder(_without_auto(settings))
    given.pop("train_batch_size", None)  # which depends on the processes
    given.setdefault("train_micro_batch_size_per_gpu", 1)
    try:
        DeepSpeedConfig(given)
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
        raise MGMError(f"DeepSpeed refuses the settings ({_reason(error)})") from error
    except DeepSpeedConfigError as error:
        raise MGMError(f"DeepSpeed refuses the settings ({_reason(error)})") from error
    known = given.read | READ_ELSEWHERE
    for name in settings:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "leave it out"
            raise MGMError(f"{name} is no field of DeepSpeed's settings; {hint}")


def _without_auto(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_auto(part) for key, part in value.items() if part != AUTO}
    return value


def _reason(error: Exception) -> str:
    errors = getattr(error, "errors", None)  # of pydantic
    if callable(errors):
        found = errors(include_url=False)
        return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found)
    return f"{one_line(error) or type(error).__name__}; correct them"
