"""Converts a checkpoint folder between the published layout and the native one.

The conversion is lossless. The generation config, processor and model card are converted too; the
original files are kept, so that converting back restores them.
"""

import shutil
from pathlib import Path

from tqdm import tqdm
from transformers import GenerationConfig

from mgm.atomic import atomic_folder
from mgm.data.model_card import model_card
from mgm.data.processing_mgm import MGMProcessor
from mgm.data.text.stop_criteria import sync_generation_config
from mgm.data.text.tokenizer import load_tokenizer
from mgm.errors import MGMError
from mgm.model.checkpoint.base_models import base_folders
from mgm.model.checkpoint.conversion import (
    Conversion,
    generation_config,
    plan_conversion,
    write_config,
    write_weights,
)
from mgm.model.checkpoint.saved_files import CONFIG_FILE, ORIGINALS
from mgm.model.families import family_of
from mgm.model.files.hub import SMALL_FILES
from mgm.model.files.json_file import read_json

_OF_WEIGHTS = ("index.json", "adapter_config.json")


def convert(
    source: Path, target: Path, layout: str, base: str | None = None, dry_run: bool = False
) -> Conversion:
    """Convert a folder; with `dry_run` nothing is written.

    Raises:
        MGMError: the source cannot be read or converted to that layout, or the target exists or
            is inside the source.
    """
    if target.exists():
        raise MGMError(f"{target}: exists already; name a new folder")
    if target.resolve().is_relative_to(source.resolve()):
        raise MGMError(f"{target}: lies in {source}, which is only read; name a folder elsewhere")
    template = None
    if layout == "published":
        values = read_json(source / CONFIG_FILE) if (source / CONFIG_FILE).is_file() else {}
        kind = (values.get("text_config") or {}).get("model_type")
        if kind is not None:  # otherwise `plan_conversion` raises the error
            family = family_of(kind, set(load_tokenizer(source).get_vocab()))
            template = family.conversation if family else None
    conversion = plan_conversion(source, layout, base, template)
    if dry_run:
        return conversion
    with (
        atomic_folder(target) as part,
        tqdm(total=conversion.nbytes, unit="B", unit_scale=True, desc="Weights") as bar,
    ):
        write_weights(conversion, part, bar.update)
        write_config(conversion, part)
        if layout == "native":
            for folder in reversed([source, *base_folders(source, base)]):
                _keep_originals(folder, part / ORIGINALS)
            processor = MGMProcessor.from_pretrained(source, base=base)
            processor.save_pretrained(part)
            _aligned_generation(source, conversion, processor).save_pretrained(part)
            card = model_card(target.name, conversion.checkpoint.config, processor)
            (part / "README.md").write_text(card, encoding="utf-8")
        else:
            _restore_originals(source, part, conversion)
    return conversion


def _small_files(folder: Path) -> list[Path]:
    files = [file for kind in SMALL_FILES for file in sorted(folder.glob(kind))]
    return [file for file in files if not file.name.endswith(_OF_WEIGHTS)]


def _keep_originals(source: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for file in _small_files(source):
        shutil.copyfile(file, folder / file.name)


def _restore_originals(source: Path, folder: Path, conversion: Conversion) -> None:
    """Write all files except config.json and weights: the kept originals where still valid."""
    kept = source / ORIGINALS
    for file in _small_files(kept if kept.is_dir() else source):
        if file.name != CONFIG_FILE:
            shutil.copyfile(file, folder / file.name)
    if not kept.is_dir():
        return
    processor = MGMProcessor.from_pretrained(source)
    if load_tokenizer(kept).get_vocab() != processor.tokenizer.get_vocab():
        for file in {*folder.glob("*token*"), *folder.glob("*.model")}:
            file.unlink()
        processor.tokenizer.save_pretrained(folder)
    own = generation_config(source, conversion.checkpoint.config)
    if own.to_diff_dict() != _aligned_generation(kept, conversion, processor).to_diff_dict():
        own.save_pretrained(folder)


def _aligned_generation(
    folder: Path, conversion: Conversion, processor: MGMProcessor
) -> GenerationConfig:
    """The generation config of the checkpoint in `folder`, with the stop tokens of its template."""
    config = conversion.checkpoint.config
    generation = generation_config(folder, config)
    rows = config.text_config.vocab_size
    sync_generation_config(generation, processor.tokenizer, processor.template, rows)
    return generation
