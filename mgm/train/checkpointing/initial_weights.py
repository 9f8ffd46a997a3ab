"""The weights that a run starts from: compared by content, and never those that it writes over."""

import re
from collections.abc import Iterator
from pathlib import Path

from mgm.data.sources.digest import digest_of
from mgm.errors import MGMError
from mgm.model.families import TEXT_TYPE_OF_PUBLISHED
from mgm.model.files.hub import checkpoint_folder
from mgm.model.files.json_file import read_json
from mgm.train.args.validation import Arguments
from mgm.train.checkpointing.checkpoints import is_checkpoint_name

Digest = dict[str, str | None]  # its "path", for reports, and "sha256", where that is known

FLAGS = (
    *("model_name_or_path", "vision_tower", "vision_tower_aux"),
    *("pretrain_mm_mlp_adapter", "lora_weight_path"),
)
# Files of models, tokenizers and processors. What else a folder has may change: notes, results of
# a benchmark, the state of the training that made it.
_COUNTED = re.compile(
    r".*\.(safetensors|bin|pt|pth|model|jinja)|.*\.index\.json|(.*_)?config\.json"
    r"|(tokenizer|vocab|added_tokens|special_tokens_map|chat_template)\.json|(vocab|merges)\.txt"
)
_OF_TRAINING = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state).*\.(bin|pt|pth)")
# A weight changes everywhere when it is trained: blocks of larger files are enough.
READ_WHOLE = 2**28  # bytes


def initial_weights(arguments: Arguments) -> dict[str, Digest | None]:
    """What a run starts from, by flag; None: the flag was left out.

    `--vision_tower_aux` lacks where it was left out and the start is gone, which says what that is.

    Raises:
        MGMError: a file cannot be read.
    """
    output = Path(str(arguments[2].output_dir))
    found = {
        f"--{flag}": initial_weights_digest(path, output) for flag, path in _given_values(arguments)
    }
    found = {f"--{flag}": None for flag in FLAGS} | found
    aux = arguments[0].vision_tower_aux
    none: Digest = {"path": "none", "sha256": None}
    if aux is not None and aux.lower() in ("", "none"):
        found["--vision_tower_aux"] = none
    elif aux is None:
        continued = _is_mini_gemini(str(arguments[0].model_name_or_path))
        if continued is None:
            del found["--vision_tower_aux"]
        elif not continued:  # a language model has none; of a Mini-Gemini it would be its own
            found["--vision_tower_aux"] = none
    return found


def initial_weights_digest(path: str, output: Path) -> Digest:
    """Content of a folder of weights, or of one file; of what is not on the disk the name alone.

    Args:
        path: of it.
        output: the folder that the run writes to, whose content changes.
    """
    place, files = Path(path), []
    folder = place if place.is_dir() else place.parent
    if folder.resolve() == output.resolve():
        return {"path": "--output_dir", "sha256": None}
    if place.is_dir():
        files = sorted(file for file in place.iterdir() if _counts(file.name))
    elif place.is_file():
        files = [place]
    return {"path": path, "sha256": digest_of(files, READ_WHOLE) if files else None}


def check_initial_weights(arguments: Arguments) -> None:
    """Refuse a start from a checkpoint in the output folder, which the run moves away or deletes.

    Raises:
        MGMError: names the flag.
    """
    output = Path(str(arguments[2].output_dir))
    for flag, path in _given_values(arguments):
        here = Path(path).resolve()
        for folder in (here, *here.parents):
            if folder.parent == output.resolve() and is_checkpoint_name(folder.name):
                raise MGMError(
                    f"--{flag} {path}: lies in a checkpoint of --output_dir {output}, which the "
                    "run would move away or delete; choose another --output_dir, or give "
                    f"--resume_from_checkpoint {output / folder.name} to go on from it"
                )


def _given_values(arguments: Arguments) -> Iterator[tuple[str, str]]:
    """Flags that name weights, and the path of each."""
    for flag in FLAGS:
        path = getattr(arguments[0], flag, None) or getattr(arguments[2], flag, None)
        if path and path.lower() != "none":
            yield flag, path


def _counts(name: str) -> bool:
    return bool(_COUNTED.fullmatch(name)) and not _OF_TRAINING.fullmatch(name)


def _is_mini_gemini(path: str) -> bool | None:
    """Whether it is one; None: it is not there any more."""
    try:
        config = read_json(checkpoint_folder(path, weights=False) / "config.json")
    except MGMError:
        return None
    return config.get("model_type") in TEXT_TYPE_OF_PUBLISHED
