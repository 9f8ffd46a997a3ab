"""The gate of the mining experiments: which text is legible at 384 pixels but not at 168?

    python -m playground.probe --weights work_dirs/character_probe --out FILE.json

Two ConvNeXts of the nano model's size are trained to recognise characters and their positions, each
with a linear head on its 24 x 24 feature map. Both start from the same weights and see the same
crops of drawn images in the same order: one sharp (384 pixels per image), the other blurred by
`blur_high_resolution=168`, the resolution of the ViT. The report is the character accuracy on
held-out images by text height, with 95 % intervals clustered by image. The data suit the
experiments if some text is legible in sharp images and illegible in blurred ones: otherwise a
second encoder of higher resolution cannot improve accuracy.
"""

import json
import logging
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tqdm import tqdm

from mgm.atomic import atomic_file
from mgm.engine.device import cpu_has_bfloat16
from mgm.errors import Parser, run_command
from mgm.eval.statistics.intervals import mean_interval
from playground.ablation.execution.checkout import current_checkout
from playground.arguments import count
from playground.cap_heights import HEIGHT_BINS, MIN_CAP
from playground.pretraining.character_readers import (
    BLUR,
    KINDS,
    WEIGHTS_FILE,
    CharacterReaders,
    build_readers,
    character_grids,
    train_readers,
    views,
)
from playground.sample import Sample
from playground.scenes import draw_sample

HELD_OUT_SEED = 900_000_000
FINE_BINS = tuple(pairwise((4, 5, 6, 7, 8, 10, 12)))
READABLE = 0.8  # accuracy that the lower limit of the sharp images' interval must exceed
UNREADABLE = 0.5  # accuracy below which the upper limit of the blurred images' interval must be
GATE_BIN = (4, 6)  # cap heights, in pixels of 256, that the gate tests


def held_out_sample(number: int) -> tuple[Sample, int]:
    """Draw a held-out scene with text, kinds in turn, and choose the index of one image of it."""
    sample = draw_sample(HELD_OUT_SEED + number, "held_out", KINDS[number % len(KINDS)])
    return sample, (number // len(KINDS)) % len(sample.images)


@torch.inference_mode()
def recognise(readers: CharacterReaders, images: int) -> list[dict[str, Any]]:
    """Run the readers on held-out images; a row per character: image, cap height, right by reader.

    "control" is the reader of sharp images on blurred images.
    """
    rows = []
    for number in tqdm(range(images), desc="held-out images", unit="image"):
        sample, index = held_out_sample(number)
        image, ids, caps = character_grids(sample, index)
        seen = views(image)
        inputs = {
            "sharp": (readers.sharp, seen["sharp"]),
            "blurred": (readers.blurred, seen["blurred"]),
            "control": (readers.sharp, seen["blurred"]),
        }
        with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16()):
            answers = {
                name: reader.head.logits(reader.features(pixels[None]))[0].argmax(-1)
                for name, (reader, pixels) in inputs.items()
            }
        for position in map(tuple, ids.nonzero().tolist()):
            truth = ids[position]
            right = {name: bool(given[position] == truth) for name, given in answers.items()}
            rows.append({"image": str(number), "cap": float(caps[position]), "right": right})
    return rows


def accuracies(rows: list[dict[str, Any]], low: float, high: float) -> dict[str, Any]:
    """Accuracies on characters from `low` to below `high`, with intervals."""
    chosen = [row for row in rows if low <= row["cap"] < high]
    groups = [row["image"] for row in chosen]
    result: dict[str, Any] = {"characters": len(chosen), "images": len(set(groups))}
    for name in chosen[0]["right"] if chosen else ():
        values = [float(row["right"][name]) for row in chosen]
        interval = mean_interval(values, groups)
        limits = [round(interval.low, 4), round(interval.high, 4)] if interval else None
        result[name] = {"accuracy": round(float(np.mean(values)), 4), "interval": limits}
    return result


def gate_holds(bins: dict[str, dict[str, Any]]) -> bool | None:
    """Whether text of `GATE_BIN` is readable if sharp and unreadable if blurred; None: unknown."""
    result = bins[_name(*GATE_BIN)]
    limits = [result.get(name, {}).get("interval") for name in ("sharp", "blurred")]
    if None in limits:
        return None
    return limits[0][0] > READABLE and limits[1][1] < UNREADABLE


def _name(low: float, high: float) -> str:
    return f"{low:g}-{high:g}"


def main() -> None:
    """Train both readers, unless their weights exist, and write their accuracies."""
    parser = Parser(prog="python -m playground.probe", description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="folder of the trained readers")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument(
        "--init-from", type=Path, help="folder of a nano ConvNeXt to start from; default: random"
    )
    parser.add_argument("--steps", type=count, default=4000)
    parser.add_argument("--batch-size", type=count, default=8)
    parser.add_argument("--images", type=count, default=1200, help="number of held-out images")
    parser.add_argument("--seed", type=int, default=2_000_000_000, help="seed of training images")
    parser.add_argument("--workers", type=count, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(arguments.seed)
    commit = current_checkout(Path(__file__).parent).commit
    readers = build_readers(arguments.init_from)
    if not arguments.weights.is_dir():
        train_readers(readers, arguments.weights, arguments)
    readers.load_state_dict(load_file(arguments.weights / WEIGHTS_FILE))
    rows = recognise(readers.eval(), arguments.images)
    bins = {_name(*b): accuracies(rows, *b) for b in HEIGHT_BINS}
    result = {
        "gate_holds": gate_holds(bins),
        "rule": f"text of {_name(*GATE_BIN)} px: sharp > {READABLE}, blurred < {UNREADABLE}",
        "bins": bins,
        "fine_bins": {_name(*b): accuracies(rows, *b) for b in FINE_BINS},
        "blur": BLUR,
        "min_cap_height": MIN_CAP,
        "command": ["python", "-m", "playground.probe", *sys.argv[1:]],
        "settings": {k: v for k, v in vars(arguments).items() if isinstance(v, int)},
        "held_out_seed": HELD_OUT_SEED,
        "commit": commit,
    }
    with atomic_file(arguments.out) as part:
        part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: result[name] for name in ("gate_holds", "bins")}, indent=2))


if __name__ == "__main__":
    run_command(main)
