"""Files of saved models by kind, and atomic replacement of the model in a folder.

A folder holds one model: a whole one, an adapter, or a stage-1 projector. Writing one removes the
files of all others; reading a folder with two is an error.
"""

import logging
import re
import shutil
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from mgm.atomic import atomic_folder, make_readable, write_errors
from mgm.errors import MGMError
from mgm.model.files.json_file import is_present, read_json
from mgm.model.files.lazy_tensor import LazyTensor, lazy_tensors
from mgm.model.published_layout.weight_names import native_tensors

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
STAGE1_FILE = "mm_projector.bin"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
NON_LORA_FILE = "non_lora_trainables.bin"
# Subfolder of a converted native folder, with the published files except the weights.
ORIGINALS = "published"
CHAT_TEMPLATES = "additional_chat_templates"  # a folder that transformers writes
# Weight names that every training produces, in all kinds of models.
FRESH_PARTS = ("mining.", "projector.")

# All weights of a model, in one file or as the index of several.
_WHOLE = (
    *("model.safetensors.index.json", "model.safetensors"),
    *("pytorch_model.bin.index.json", "pytorch_model.bin"),
)
_ADAPTER = (ADAPTER_CONFIG, *ADAPTER_FILES, NON_LORA_FILE)
_OF_WEIGHTS = re.compile(
    r"(pytorch_)?model(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?|generation_config\.json|"
    + "|".join(map(re.escape, (*_ADAPTER, STAGE1_FILE)))
)
# Files of an earlier model that would change prompts and outputs, or describe another training.
_OF_PROCESSOR = re.compile(
    r"(tokenizer|(tokenizer|processor|preprocessor)_config|special_tokens_map|added_tokens|vocab"
    rf"|chat_template)\.json|chat_template\.jinja|{CHAT_TEMPLATES}|tokenizer\.model"
    r"|vocab\.txt|merges\.txt|trainer_state\.json|training_args\.bin"
)
# A temporary folder with a complete new model. ".complete": the old model is not removed yet;
# ".moving": it is, and some of the new files may have been moved.
_COMPLETE = re.compile(r"\.model\.[0-9a-f]{8}(\.weights)?\.(complete|moving)")
# Without one of these a folder is not a model: they are removed first, and moved in last.
_ENTRIES = (ADAPTER_CONFIG, CONFIG_FILE)


@contextmanager
def replace_model(folder: Path, processor: bool = True) -> Generator[Path]:
    """Replace the model in a folder atomically: `with replace_model(folder) as new: save(new)`.

    The block writes the new model into an empty temporary folder. When the block ends, the files
    of the old model are removed and the new files are moved to `folder`; an exception in the
    block leaves the old model as it was. Checkpoints and files of the user are kept.

    Moving several files is not atomic by itself. So config.json is removed first and moved in last:
    a folder without it is not a model, and a reader never sees files of both. If the process is
    killed while it moves files, `finish_replacement` moves the rest.

    Args:
        folder: folder of the model; created if it does not exist.
        processor: whether to remove tokenizer, processor and training state of the old model, too;
            False if the block writes only weights.

    Yields:
        The temporary folder.

    Raises:
        MGMError: files could not be written (then `folder` is unchanged, or has no config.json), or
            a subfolder of the user has the name of a model file.
    """
    if not is_present(folder):
        with atomic_folder(folder) as part:
            yield part
        return
    check_replaceable(folder)
    stem = f".model.{uuid.uuid4().hex[:8]}"
    part, complete = (folder / f"{stem}{end}" for end in (".part", ".complete"))
    if not processor:
        complete = folder / f"{stem}.weights.complete"
    finish_replacement(folder)
    with write_errors(folder):
        try:
            part.mkdir()
            yield part
            make_readable(part)
            part.rename(complete)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        _move_in(complete)


def finish_replacement(folder: Path) -> None:
    """Finish a replacement whose process was killed after the new model was complete.

    Raises:
        MGMError: the files could not be moved.
    """
    with write_errors(folder):
        for complete in [file for file in folder.iterdir() if _COMPLETE.fullmatch(file.name)]:
            _move_in(complete)
            logger.warning(
                "%s: finished replacing the model, which an earlier process was killed in", folder
            )


def _move_in(complete: Path) -> None:
    """Remove the old model of the parent folder, and move the files of the new one there."""
    folder = complete.parent
    if complete.suffix == ".complete":
        _remove_model(folder, processor=".weights." not in complete.name)
        complete = complete.rename(complete.with_suffix(".moving"))
    for name in sorted((file.name for file in complete.iterdir()), key=_order):
        (complete / name).replace(folder / name)
    complete.rmdir()


def _order(name: str) -> tuple[int, str]:
    return (_ENTRIES.index(name) if name in _ENTRIES else -1, name)


def _remove_model(folder: Path, processor: bool) -> None:
    old = model_files(folder) + (processor_files(folder) if processor else [])
    if is_present(folder / ORIGINALS / CONFIG_FILE) and not _whole_files(folder / ORIGINALS):
        old.append(ORIGINALS)
    for name in sorted(old, key=_order, reverse=True):
        if name in (ORIGINALS, CHAT_TEMPLATES) and not (folder / name).is_symlink():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def check_replaceable(folder: Path) -> None:
    """Check that no subfolder of the user has the name of a model file.

    Raises:
        MGMError: names the subfolder.
    """
    if not folder.is_dir():
        return
    for name in model_files(folder) + processor_files(folder):
        entry = folder / name
        if name != CHAT_TEMPLATES and entry.is_dir() and not entry.is_symlink():
            raise MGMError(
                f"{entry}: is a folder, but the model has a file of this name; rename the folder, "
                f"or save to another folder than {folder}"
            )


def model_files(folder: Path) -> list[str]:
    """Names of a folder's files that belong to a model of any kind, without its processor."""
    names = (file.name for file in folder.iterdir())
    return sorted(name for name in names if name == CONFIG_FILE or _OF_WEIGHTS.fullmatch(name))


def processor_files(folder: Path) -> list[str]:
    """Names of the files of tokenizer, processor and training in the folder of a model."""
    return sorted(file.name for file in folder.iterdir() if is_of_processor(file.name))


def is_of_processor(name: str) -> bool:
    """Whether a file or folder of that name belongs to tokenizer, processor or training."""
    return bool(_OF_PROCESSOR.fullmatch(name))


def check_one_model(folder: Path) -> None:
    """Refuse a folder with two models, since either could be loaded instead of the other.

    The same weights in two formats are one model: bots of the hub add safetensors to others.

    Raises:
        MGMError: there are two models; names a file of each.
    """
    whole, adapter = _whole_files(folder), _present(folder, _ADAPTER)
    if len(whole) > 1 and _same_weights(folder, whole):
        logger.warning("%s: %s have the same weights", folder, " and ".join(whole))
        whole = whole[:1]
    for first, second in (
        (whole, adapter),
        (_present(folder, (STAGE1_FILE,)), adapter),
        (whole[:1], whole[1:]),
        (_present(folder, ADAPTER_FILES[:1]), _present(folder, ADAPTER_FILES[1:])),
    ):
        if first and second:
            raise _two_models(folder, first, second)


def check_no_adapter(folder: Path) -> None:
    """Refuse a folder with both a language model, in any weight format, and an adapter."""
    whole, adapter = _whole_files(folder), _present(folder, _ADAPTER)
    if whole and adapter:
        raise _two_models(folder, whole, adapter)


def check_stage1(folder: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Refuse a whole model beside the stage-1 file of another training.

    Our stage 1 writes both, with the same weights.

    Args:
        folder: folder of a whole model.
        tensors: weights of the model, by native names.

    Raises:
        MGMError: mining or projector differ.
    """
    file = folder / STAGE1_FILE
    if not is_present(file):
        return
    for name, stage1 in native_tensors(lazy_tensors(file)).items():
        whole = tensors.get(name)
        if not name.startswith(FRESH_PARTS):
            continue
        if whole is None or whole.shape != stage1.shape or not _same(whole, stage1):
            raise _two_models(folder, _whole_files(folder)[:1], [STAGE1_FILE])


def _same(first: LazyTensor, second: LazyTensor) -> bool:
    return torch.equal(first.read(), second.read().to(first.dtype))


def _same_weights(folder: Path, names: list[str]) -> bool:
    """Whether several files, or the shards of several indexes, hold the same weights."""
    try:
        first, *others = (native_tensors(_tensors_of(folder / name)) for name in names)
        return all(_same_tensors(first, other) for other in others)
    except MGMError:
        return False  # one of them is damaged


def _tensors_of(file: Path) -> dict[str, LazyTensor]:
    if file.suffix != ".json":
        return lazy_tensors(file)
    shards = sorted(set(map(str, read_json(file)["weight_map"].values())))
    return {name: t for shard in shards for name, t in lazy_tensors(file.parent / shard).items()}


def _same_tensors(first: Mapping[str, LazyTensor], second: Mapping[str, LazyTensor]) -> bool:
    shared = first.keys() & second.keys()
    if not shared or any(first[name].shape != second[name].shape for name in shared):
        return False
    if not all(_same(first[name], second[name]) for name in shared):
        return False
    # safetensors stores a shared weight under one of its names.
    both = {**first, **second}
    return all(
        any(both[name].shape == t.shape and _same(t, both[name]) for t in first.values())
        for name in first.keys() ^ second.keys()
    )


def _two_models(folder: Path, first: list[str], second: list[str]) -> MGMError:
    return MGMError(
        f"{folder}: has two models, {first[0]} and {second[0]}, so it is unclear which to load; "
        f"delete {' and '.join(first)}, or {' and '.join(second)}"
    )


def _present(folder: Path, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if is_present(folder / name)]


def _whole_files(folder: Path) -> list[str]:
    """Files with all weights, and indexes of which at least one shard is there."""
    files = _present(folder, _WHOLE)
    if len(files) < 2:
        return files
    return [name for name in files if not name.endswith(".json") or _has_shard(folder / name)]


def _has_shard(index: Path) -> bool:
    shards = read_json(index).get("weight_map")
    names = set(map(str, shards.values())) if isinstance(shards, dict) else ()
    return any(is_present(index.parent / name) for name in names)
