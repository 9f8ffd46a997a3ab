"""Initial weights of a run: their digests, and a check that the run does not overwrite them."""

import re
from collections.abc import Iterator
from pathlib import Path

from mgm.data.sources.digest import digest_of
from mgm.errors import MGMError
from mgm.model.families import is_mini_gemini
from mgm.model.files.hub import checkpoint_folder
from mgm.model.files.json_file import read_json
from mgm.train.args.validation import Arguments
from mgm.train.checkpointing.checkpoints import is_checkpoint_name

Digest = dict[str, str | None]  # "path", for reports, and "sha256", if known

FLAGS = (
    *("model_name_or_path", "vision_tower", "vision_tower_aux"),
    *("pretrain_mm_mlp_adapter", "lora_weight_path"),
)
# Files of models, tokenizers and processors. Others in a folder may change, such as results of
# benchmarks or states of a training.
_MODEL_FILES = re.compile(
    r".*\.(safetensors|bin|pt|pth|model|jinja)|.*\.index\.json|(.*_)?config\.json"
    r"|(tokenizer|vocab|added_tokens|special_tokens_map|chat_template)\.json|(vocab|merges)\.txt"
)
_TRAINING_FILES = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state).*\.(bin|pt|pth)"
)
# Training changes weights everywhere, so that blocks of larger files are enough.
MAX_FULL_DIGEST = 2**28  # maximum size of completely hashed files


def initial_weights(arguments: Arguments) -> dict[str, Digest | None]:
    """Digests of the initial weights by flag; None: the flag was left out.

    `--vision_tower_aux` is missing if it was left out and `--model_name_or_path` no longer exists:
    whether the model has one of its own is unknown then.

    Raises:
        MGMError: a file cannot be read.
    """
    output = Path(str(arguments[2].output_dir))
    digests: dict[str, Digest | None] = {f"--{flag}": None for flag in FLAGS}
    for flag, path in _given_paths(arguments):
        digests[f"--{flag}"] = initial_weights_digest(path, output)
    aux = arguments[0].vision_tower_aux
    none: Digest = {"path": "none", "sha256": None}
    if aux is not None and aux.lower() in ("", "none"):
        digests["--vision_tower_aux"] = none
    elif aux is None:
        continued = _has_mini_gemini(str(arguments[0].model_name_or_path))
        if continued is None:
            del digests["--vision_tower_aux"]
        elif not continued:  # a Mini-Gemini may have its own
            digests["--vision_tower_aux"] = none
    return digests


def initial_weights_digest(path: str, output: Path) -> Digest:
    """Digest of a file or folder of weights; None for one that is not on the disk.

    Args:
        path: path of the file or folder.
        output: the folder of the run, whose content changes.
    """
    weights, files = Path(path), []
    folder = weights if weights.is_dir() else weights.parent
    if folder.resolve() == output.resolve():
        return {"path": "--output_dir", "sha256": None}
    if weights.is_dir():
        files = sorted(file for file in weights.iterdir() if _is_model_file(file.name))
    elif weights.is_file():
        files = [weights]
    return {"path": path, "sha256": digest_of(files, MAX_FULL_DIGEST) if files else None}


def check_initial_weights(arguments: Arguments) -> None:
    """Refuse initial weights in a checkpoint of the output folder: the run would delete them.

    Raises:
        MGMError: names the flag.
    """
    output = Path(str(arguments[2].output_dir))
    for flag, path in _given_paths(arguments):
        resolved = Path(path).resolve()
        for folder in (resolved, *resolved.parents):
            if folder.parent == output.resolve() and is_checkpoint_name(folder.name):
                raise MGMError(
                    f"--{flag} {path}: lies in a checkpoint of --output_dir {output}, which the "
                    "run would move away or delete; choose another --output_dir, or give "
                    f"--resume_from_checkpoint {output / folder.name} to resume it"
                )


def _given_paths(arguments: Arguments) -> Iterator[tuple[str, str]]:
    """Flags of initial weights that are given, with their paths."""
    for flag in FLAGS:
        path = getattr(arguments[0], flag, None) or getattr(arguments[2], flag, None)
        if path and path.lower() != "none":
            yield flag, path


def _is_model_file(name: str) -> bool:
    return bool(_MODEL_FILES.fullmatch(name)) and not _TRAINING_FILES.fullmatch(name)


def _has_mini_gemini(path: str) -> bool | None:
    """Whether a folder has a Mini-Gemini; None: it does not exist any more."""
    try:
        config = read_json(checkpoint_folder(path, weights=False) / "config.json")
    except MGMError:
        return None
    return is_mini_gemini(config)
