"""Fingerprint of a run (run.json): flags, config, weights and data that decide its result.

A resumed run is compared with the fingerprint in its checkpoint. Names of fields are part of the
checkpoint format.
"""

import json
import logging
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from mgm.data.datasets.fingerprint import Items, data_fingerprint
from mgm.data.datasets.streaming import StreamedDataset
from mgm.data.processing_mgm import MGMProcessor
from mgm.data.text.templates import version_template
from mgm.errors import MGMError
from mgm.model.files.json_file import is_present, read_json
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.vision.fusion.fusion_config import FusionConfig
from mgm.train.args.validation import Arguments
from mgm.train.checkpointing.flag_policy import CONFIG_FLAGS, FLAG_POLICIES, Policy
from mgm.train.checkpointing.initial_weights import initial_weights

logger = logging.getLogger(__name__)

Fingerprint = dict[str, Any]

FINGERPRINT_FILE = "run.json"
FINGERPRINT_FORMAT = 3  # 1 had eight flags, and the number of samples; 2 digests of other files
EVAL = "--eval_data_path"
MAX_NAMES = 8  # listed in one line
# Names, in errors, of fields that are no flags, or that several flags decide.
LABELS = {
    "items": "number of samples",
    "order_seed": "--data_seed",
    "processes": "number of processes",
    "--warmup_steps": "--warmup_steps/--warmup_ratio",
}


class ContentDigest(NamedTuple):
    """Path and digest of a file or folder; without a digest the path is compared."""

    path: str
    sha256: str | None

    def same_as(self, other: "ContentDigest") -> bool:
        """Whether both have the same digest; where one is unknown, the same path."""
        if self.sha256 is None or other.sha256 is None:
            return self.path == other.path
        return self.sha256 == other.sha256


def fingerprint_of_flags(arguments: Arguments) -> Fingerprint:
    """The part of a fingerprint that needs neither model nor data."""
    training = arguments[2]
    entries: Fingerprint = {}
    for part in arguments:
        for name, policy in FLAG_POLICIES.items():
            if not hasattr(part, name) or policy in (Policy.IGNORE, Policy.CONTENT):
                continue
            value = getattr(part, name)
            if policy is not Policy.CONFIG:
                entries[f"--{name}"] = _plain(value)
            elif value is not None:  # None: the folder's value is kept
                parse = {"version": version_template, "fusion": _fusion_fields}.get(name)
                entries[f"--{name}"] = parse(value) if parse else value
    entries.pop("--data_seed")  # None: --seed
    entries["order_seed"] = training.order_seed
    if arguments[1].streaming:  # the order of a stream depends on the number of workers
        entries["--dataloader_num_workers"] = training.dataloader_num_workers
    settings = training.deepspeed if isinstance(training.deepspeed, dict) else {}
    rest = {name: value for name, value in settings.items() if name not in _OF_DEEPSPEED}
    zero = dict(settings.get("zero_optimization", {}))
    entries |= {"--fsdp": training.use_fsdp, "--deepspeed": bool(training.deepspeed)}
    entries["zero_optimization.stage of --deepspeed"] = zero.pop("stage", 0) if settings else None
    for name in ("optimizer", "scheduler"):
        entries[f"{name} of --deepspeed"] = settings.get(name)
    entries["other settings of --deepspeed"] = rest | {"zero_optimization": zero}
    return entries | {"processes": training.world_size}


# Fields of DeepSpeed's config that are compared separately, or as flags.
_OF_DEEPSPEED = (
    *("optimizer", "scheduler", "zero_optimization", "bf16", "fp16", "gradient_clipping"),
    *("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"),
)


def fingerprint_of(
    arguments: Arguments,
    model: MGMForConditionalGeneration,
    processor: MGMProcessor,
    items: Items,
    eval_items: Items | None = None,
) -> Fingerprint:
    """The fingerprint of a run: flags, config, and digests of initial weights and data.

    Args:
        arguments: the flags.
        model: its config has the values that no flag sets.
        processor: has the conversation template.
        items: the training dataset.
        eval_items: the validation samples.

    Raises:
        MGMError: a file cannot be read.
    """
    entries: Fingerprint = {"format": FINGERPRINT_FORMAT} | fingerprint_of_flags(arguments)
    for flag, field in CONFIG_FLAGS.items():
        owner = processor if field == "conversation" else model.config
        value = getattr(owner, field)
        entries[f"--{flag}"] = _plain(value.to_json() if field == "fusion" else value)
    entries |= initial_weights(arguments)
    entries["items"] = len(items.names if isinstance(items, StreamedDataset) else items)
    entries |= data_fingerprint(items, "--data_path")
    return entries | ({} if eval_items is None else data_fingerprint(eval_items, EVAL))


def write_fingerprint(fingerprint: Fingerprint, folder: Path) -> None:
    """Write a fingerprint into a checkpoint."""
    (folder / FINGERPRINT_FILE).write_text(
        json.dumps(fingerprint, indent=2) + "\n", encoding="utf-8"
    )


def check_flags(fingerprint: Fingerprint, checkpoint: Path) -> None:
    """Compare flags with a checkpoint's, before model and data are loaded.

    Raises:
        MGMError: a flag that decides the result differs, or run.json is damaged.
    """
    before = _read(checkpoint)
    _refuse(_differences(fingerprint, before, fingerprint.keys() & before.keys()), checkpoint)


def check_fingerprint(fingerprint: Fingerprint, checkpoint: Path) -> None:
    """Compare a fingerprint with a checkpoint's; log differences that do not decide the result.

    Raises:
        MGMError: a field that decides the result differs, or run.json is damaged.
    """
    before = _read(checkpoint)
    if not before:
        logger.warning(
            "%s: has no %s; flags and data cannot be compared", checkpoint, FINGERPRINT_FILE
        )
        return
    shared = (fingerprint.keys() & before.keys()) - {"format"}
    unknown = fingerprint.keys() - shared - {"format"}
    if before.get("format") == FINGERPRINT_FORMAT:  # data has the same fields then
        of_data = {name for name in fingerprint.keys() ^ before.keys() if _of_data(name)}
        shared, unknown = shared | of_data, unknown - of_data
    differences = list(_differences(fingerprint, before, shared))
    _refuse(differences, checkpoint)
    accepted = [text for policy, text in differences if policy is Policy.LOG]
    if accepted:
        logger.info("resuming with changed settings: %s", "; ".join(sorted(accepted)))
    gone = [
        now.path
        for name in sorted(shared)
        if (now := _content(fingerprint.get(name))) and (old := _content(before.get(name)))
        if (now.sha256 is None) != (old.sha256 is None)
    ]
    names = sorted(_label(name) for name in unknown if _policy(name) is Policy.REFUSE)
    if missing := [*gone, *names]:
        more = len(missing) - MAX_NAMES
        logger.warning(
            "%s: cannot be compared with this run in %s%s",
            *(checkpoint, ", ".join(missing[:MAX_NAMES]), f" and {more} more" if more > 0 else ""),
        )


def _read(checkpoint: Path) -> Fingerprint:
    if not is_present(checkpoint / FINGERPRINT_FILE):
        return {}
    entries = read_json(checkpoint / FINGERPRINT_FILE)
    if "processes" not in entries:  # every format has it
        raise MGMError(
            f"{checkpoint / FINGERPRINT_FILE}: is not a fingerprint of a run; copy it again, or "
            f"delete {checkpoint} to resume from the checkpoint before it"
        )
    if entries.get("format") == FINGERPRINT_FORMAT:
        return entries
    return {name: value for name, value in entries.items() if _content(value) is None}


def _differences(
    now: Fingerprint, before: Fingerprint, names: set[str]
) -> Iterator[tuple[Policy, str]]:
    """Policy and description of each field that differs."""
    for name in sorted(names):
        old, new = before.get(name), now.get(name)
        was, now_is = _content(old), _content(new)
        if was and now_is and was.same_as(now_is):
            if was.path != now_is.path:
                yield Policy.LOG, f"{_label(name)} {was.path} is at {now_is.path} now"
            continue
        if old != new and not (name == "items" and type(old) is not type(new)):
            yield _policy(name), f"{_label(name)} was {_shown(old)}, is {_shown(new)}"


def _refuse(differences: Any, checkpoint: Path) -> None:
    if changed := [text for policy, text in differences if policy is Policy.REFUSE]:
        raise MGMError(
            f"{checkpoint}: was made by another run ({'; '.join(changed)}); repeat its flags and "
            "data, or start a new run with another --output_dir"
        )


def _policy(name: str) -> Policy:
    if EVAL in name or name.startswith("other settings"):
        return Policy.LOG
    policy = FLAG_POLICIES.get(name.removeprefix("--"), Policy.REFUSE)
    return policy if policy in (Policy.LOG, Policy.LENGTH) else Policy.REFUSE


def _of_data(name: str) -> bool:
    return "--data_path" in name or EVAL in name


def _label(name: str) -> str:
    return LABELS.get(name, name)


def _content(value: Any) -> ContentDigest | None:
    """A field's value as path and digest; None if it is another kind of value."""
    is_content = isinstance(value, dict) and value.keys() == {"path", "sha256"}
    return ContentDigest(value["path"], value["sha256"]) if is_content else None


def _shown(value: Any) -> str:
    if content := _content(value):
        digest = content.sha256
        return content.path + (f" (sha256 {digest[:8]})" if digest else "")
    return "left out" if value is None or value == "" else str(value)


def _fusion_fields(flag: str) -> Any:
    return _plain(FusionConfig.from_flag(flag).to_json())


def _plain(value: Any) -> Any:
    """A flag's value as in JSON; empty ones are None."""
    if isinstance(value, Enum):
        return value.value
    if value in ({}, ""):
        return None
    return json.loads(json.dumps(value, default=_as_json))


def _as_json(value: Any) -> Any:
    """Serialise an object of a class of transformers."""
    return value.to_dict() if hasattr(value, "to_dict") else str(value)
