"""Draw a data set in the published conversation format: python -m playground.generate --help."""

import json
import logging
import zlib
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from mgm.atomic import atomic_file, atomic_folder
from mgm.data.text.templates import IMAGE_MARKER
from mgm.errors import MGMError, Parser, run_command
from playground.arguments import count
from playground.cap_heights import MIN_CAP
from playground.photo_library import FETCH_HINT, load_photos
from playground.scenes import KINDS, PHOTO, Sample, Split, draw_sample
from playground.scenes.qa import DESCRIBE, DESCRIBE_BOTH

VERSION = 8  # increase it when a change makes the same seed draw another image
IMAGE_LINE = f"{IMAGE_MARKER}\n"
MANIFEST_KEYS = {"version", "split", "count", "seed", "kinds"}
SEED_STEP = 10_000_000  # seeds of images per seed of a data set, so that data sets do not overlap
CHUNK = 32  # samples per task of a worker process

Record = dict[str, Any]


def generate(
    folder: Path,
    split: Split,
    count: int,
    seed: int,
    kinds: tuple[str, ...] = (),
    workers: int = 1,
    min_cap_height: float = MIN_CAP,
    photos: Path | None = None,
) -> None:
    """Write `count` samples to `folder`: images/, conversations.json, captions.json, manifest.json.

    A folder with the same manifest is left unchanged; one with another manifest is replaced
    atomically when the new data set is complete.

    Args:
        kinds: scene kinds to draw in equal parts; empty: all in their default shares.
        min_cap_height: see `draw_sample`.
        photos: folder written by `python -m playground.photos`; None: no photographs.

    Raises:
        MGMError: a kind is unknown, the folder is not a data set of ours, or the disk is full.
    """
    known = (*KINDS, PHOTO)
    unknown = sorted(set(kinds) - set(known))
    if unknown:
        raise MGMError(f"--kinds: {unknown[0]!r} is unknown; choose among {', '.join(known)}")
    if photos is not None:
        load_photos(photos)  # fail before hours of drawing
    manifest = {
        "version": VERSION,
        "split": split,
        "count": count,
        "seed": seed,
        "kinds": list(kinds),
        "min_cap_height": min_cap_height,
        "photos": photos is not None,
    }
    if _manifest_of(folder) == manifest:
        return
    if folder.is_dir() and any(folder.iterdir()) and _manifest_of(folder) is None:
        raise MGMError(f"{folder}: not empty and not a data set of ours; choose another --out")
    with atomic_folder(folder) as part:
        (part / "images").mkdir()
        draw = partial(
            _draw_one,
            folder=part,
            split=split,
            seed=seed,
            kinds=kinds,
            min_cap_height=min_cap_height,
            photos=photos,
        )
        conversations, captions = _draw_all(draw, count, workers, f"drawing {split}")
        for name, content in (
            ("conversations", conversations),
            ("captions", captions),
            ("manifest", manifest),
        ):
            with atomic_file(part / f"{name}.json") as path:
                path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _manifest_of(folder: Path) -> Record | None:
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MGMError(f"{path}: not JSON ({error}); delete {folder} and run again") from error
    # A manifest.json without these keys was written by another program.
    return manifest if isinstance(manifest, dict) and manifest.keys() >= MANIFEST_KEYS else None


def _draw_all(
    draw: Callable[[int], tuple[Record, Record]], count: int, workers: int, title: str
) -> tuple[list[Record], list[Record]]:
    conversations, captions = [], []
    with tqdm(total=count, desc=title, unit="sample") as bar:

        def keep(records: tuple[Record, Record]) -> None:
            conversations.append(records[0])
            captions.append(records[1])
            bar.update()

        if workers <= 1:
            for index in range(count):
                keep(draw(index))
        else:
            with get_context("spawn").Pool(workers) as pool:
                for records in pool.imap(draw, range(count), chunksize=CHUNK):
                    keep(records)
    return conversations, captions


def _draw_one(
    index: int,
    folder: Path,
    split: Split,
    seed: int,
    kinds: tuple[str, ...],
    min_cap_height: float,
    photos: Path | None,
) -> tuple[Record, Record]:
    kind = kinds[index % len(kinds)] if kinds else None
    sample = draw_sample(
        seed * SEED_STEP + index,
        split,
        kind,
        min_cap_height=min_cap_height,
        photos=load_photos(photos) if photos else None,
    )
    identity = f"{split}-{seed}-{index:06d}"
    letters = ("",) if len(sample.images) == 1 else ("a", "b")
    names = [f"{identity}{letter}.png" for letter in letters]
    for name, image in zip(names, sample.images, strict=True):
        image.save(folder / "images" / name, compress_level=1, compress_type=zlib.Z_RLE)
    return conversation_record(sample, identity, names), caption_record(sample, identity, names)


def conversation_record(sample: Sample, identity: str, names: list[str]) -> Record:
    """Entry of the published format for a sample, plus `kinds` and `text_heights` per turn."""
    messages = []
    for index, turn in enumerate(sample.turns):
        marker = IMAGE_LINE * len(names) if index == 0 else ""
        messages.append({"from": "human", "value": marker + turn.question})
        messages.append({"from": "gpt", "value": turn.answer})
    return {
        **_head(identity, names),
        "conversations": messages,
        "kinds": [turn.kind for turn in sample.turns],
        "text_heights": [turn.text_height for turn in sample.turns],
    }


def caption_record(sample: Sample, identity: str, names: list[str]) -> Record:
    """Entry of the published format for a sample's caption, for stage 1 (alignment)."""
    instruction = Random(identity).choice(DESCRIBE if len(names) == 1 else DESCRIBE_BOTH)
    return {
        **_head(identity, names),
        "conversations": [
            {"from": "human", "value": IMAGE_LINE * len(names) + instruction},
            {"from": "gpt", "value": sample.caption},
        ],
    }


def _head(identity: str, names: list[str]) -> Record:
    return {"id": identity, "image": names[0] if len(names) == 1 else names}


def main() -> None:
    """Draw a data set as the command line says."""
    parser = Parser(prog="python -m playground.generate", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--split", choices=("train", "held_out"), default="train")
    parser.add_argument("--count", type=count, required=True, help="number of samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--kinds",
        nargs="*",
        default=(),
        help=f"scene kinds to draw: {', '.join(KINDS)}; default: all",
    )
    parser.add_argument("--workers", type=count, default=1, help="number of processes")
    parser.add_argument(
        "--min-cap-height",
        type=float,
        default=MIN_CAP,
        help="minimum cap height in pixels at a longest side of 256, from 4 to 12; "
        "12: as in the training data of the shipped weights; default: %(default)s",
    )
    parser.add_argument(
        "--photos", type=Path, help=f"folder of photographs used in scenes; {FETCH_HINT}"
    )
    args = parser.parse_args()
    if args.photos is None:
        logging.info("No photographs: %s, then give --photos DIR", FETCH_HINT)
    generate(
        args.out,
        args.split,
        args.count,
        args.seed,
        tuple(args.kinds),
        args.workers,
        args.min_cap_height,
        args.photos,
    )


if __name__ == "__main__":
    run_command(main)
