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
from playground.photo_library import HOW, load_photos
from playground.scenes import KINDS, PHOTO, Sample, Split, draw_sample
from playground.scenes.asking import DESCRIBE, DESCRIBE_BOTH

VERSION = 8  # to be raised when the same seed would draw another picture
IMAGE_LINE = f"{IMAGE_MARKER}\n"
MANIFEST_KEYS = {"version", "split", "count", "seed", "kinds"}
SEED_STEP = 10_000_000  # data sets of neighbouring seeds share no picture
CHUNK = 32  # samples per message between processes

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

    A folder whose manifest asks for the same is left as it is; another one is replaced as a whole,
    and only when the new one is complete.

    Args:
        kinds: scenes to draw in equal parts; all in their usual shares where empty.
        min_cap_height: as in `draw_sample`.
        photos: folder of `python -m playground.photos`; None: no photographs.

    Raises:
        MGMError: an unknown kind, a folder that is not a data set of ours, a full disk.
    """
    known = (*KINDS, PHOTO)
    unknown = sorted(set(kinds) - set(known))
    if unknown:
        raise MGMError(f"--kinds: {unknown[0]!r} is unknown; choose among {', '.join(known)}")
    if photos is not None:
        load_photos(photos)  # say what is wrong before hours of drawing
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
    # Other programs write a manifest.json too.
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
    """A sample as one entry of the published format, plus `kinds` and `text_heights` per turn."""
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
    """A sample's caption as one entry of the published format, for the alignment stage."""
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
    """Read the command line and draw."""
    parser = Parser(prog="python -m playground.generate", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--split", choices=("train", "held_out"), default="train")
    parser.add_argument("--count", type=count, required=True, help="samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--kinds", nargs="*", default=(), help=f"of {', '.join(KINDS)}; all if none"
    )
    parser.add_argument("--workers", type=count, default=1, help="processes")
    parser.add_argument(
        "--min-cap-height",
        type=float,
        default=MIN_CAP,
        help="in pixels of an image of 256, from 4 to 12; 12: the data of the shipped weights",
    )
    parser.add_argument("--photos", type=Path, help=f"folder of photographs to show; {HOW}")
    args = parser.parse_args()
    if args.photos is None:
        logging.info("No photographs: %s, then give --photos DIR", HOW)
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
