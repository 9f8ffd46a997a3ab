"""Convert a checkpoint from the published layout to the native one, or back.

    python -m mgm.convert SRC DST --to {native,published} [--dry-run]

Weights keep every bit. DST appears when it is complete.
"""

import shutil
from pathlib import Path

from tqdm import tqdm
from transformers import GenerationConfig

from mgm.atomic import atomic_folder
from mgm.data.model_card import model_card
from mgm.data.processing_mgm import MGMProcessor
from mgm.data.text.stop_criteria import align_generation
from mgm.data.text.tokenizer import load_tokenizer
from mgm.errors import MGMError, Parser, run_command, write_output
from mgm.model.checkpoint.base_models import base_folders
from mgm.model.checkpoint.conversion import (
    LAYOUTS,
    Conversion,
    generation_config,
    plan,
    write_config,
    write_weights,
)
from mgm.model.checkpoint.saved_files import CONFIG_FILE, ORIGINALS
from mgm.model.families import family_of
from mgm.model.files.hub import SMALL_FILES, checkpoint_folder
from mgm.model.files.json_file import read_json

_OF_WEIGHTS = ("index.json", "adapter_config.json")


def convert(
    source: Path, target: Path, layout: str, base: str | None = None, dry_run: bool = False
) -> Conversion:
    """Convert a folder; with `dry_run` nothing is written.

    Raises:
        MGMError: the source cannot be read or expressed in that layout, or the target is taken or
            lies in the source.
    """
    if target.exists():
        raise MGMError(f"{target}: exists already; name a new folder")
    if target.resolve().is_relative_to(source.resolve()):
        raise MGMError(f"{target}: lies in {source}, which is only read; name a folder elsewhere")
    template = None
    if layout == "published":
        values = read_json(source / CONFIG_FILE) if (source / CONFIG_FILE).is_file() else {}
        kind = (values.get("text_config") or {}).get("model_type")
        if kind is not None:  # else `plan` says what is wrong
            family = family_of(kind, set(load_tokenizer(source).get_vocab()))
            template = family.conversation if family else None
    conversion = plan(source, layout, base, template)
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
    """Write the files beside config.json and the weights: the originals, where they still hold."""
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
    """How the checkpoint in `folder` generates, and stops as its family does."""
    config = conversion.checkpoint.config
    generation = generation_config(folder, config)
    rows = config.text_config.vocab_size
    align_generation(generation, processor.tokenizer, processor.template, rows)
    return generation


def main() -> None:
    """Read the command line and convert."""
    parser = Parser(prog="python -m mgm.convert", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", help="a checkpoint's folder, or its id on the hub", metavar="SRC")
    parser.add_argument("target", type=Path, help="the folder to write", metavar="DST")
    parser.add_argument("--to", choices=LAYOUTS, required=True, help="the layout of DST")
    parser.add_argument(
        "--model-base", help="the base model, where SRC is a stage-1 or LoRA folder", metavar="DIR"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="list what maps to what, write nothing"
    )
    arguments = parser.parse_args()
    source = checkpoint_folder(arguments.source)
    done = convert(source, arguments.target, arguments.to, arguments.model_base, arguments.dry_run)
    if arguments.dry_run:
        write_output("".join(f"{line}\n" for line in done.lines()))
    verb = "would be written" if arguments.dry_run else "written"
    write_output(
        f"{len(done.tensors)} tensors, {done.nbytes / 1e9:.2f} GB {verb} to {arguments.target}\n"
    )


if __name__ == "__main__":
    run_command(main)
