"""Pre-train the nano encoders on drawn pages and scenes, separately and with one recipe.

Linear heads on an encoder's feature grids predict characters, objects and colours at each position,
and the cell code of the language model; a contrastive loss aligns its image embedding with
captions. Heads and caption encoder are discarded. All encoders of a set (see encoder_sets.py) see
the same images in the same order for the same number of steps. They are never combined, so that no
fusion module has an advantage.
"""

import logging
import shutil
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from mgm.errors import Parser, run_command
from playground.arguments import count, fraction
from playground.photo_library import FETCH_HINT, load_photos
from playground.pretraining.cell_code import load_code
from playground.pretraining.drawn_images import DrawnImages
from playground.pretraining.encoder_heads import EncoderPretraining
from playground.pretraining.encoder_networks import build_encoder
from playground.pretraining.encoder_sets import ENCODER_SETS, EncoderSpec, encoder_set
from playground.pretraining.loop import batches_after, optimizers, train
from playground.tokenizer import read_tokenizer

OTHERS_RATE = 1e-3  # learning rate of parameters other than matrices
TOWERS = ("vit", "convnext")  # values of `tower` of the specs

logger = logging.getLogger(__name__)


def pretrain(spec: EncoderSpec, arguments: Namespace) -> None:
    """Train one encoder with the arguments of the command line, unless it is finished."""
    out = arguments.out / spec.name
    if out.is_dir():
        logger.info("%s is finished", out)
        return
    logger.info("%s", out)
    torch.manual_seed(arguments.seed)
    tokenizer = read_tokenizer(arguments.tokenizer)
    code = load_code(arguments.language_model) if arguments.language_model else None
    photos = load_photos(arguments.photos) if arguments.photos else None
    encoder = build_encoder(spec)
    model = EncoderPretraining(encoder, len(tokenizer), code)
    if arguments.init_from:
        encoder.load(arguments.init_from / spec.name)
    if shutil.which("g++"):
        encoder.compile()

    def losses(done: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        batches = batches_after(
            done,
            lambda seed: DrawnImages(seed, arguments.page_ratio, tokenizer, photos),
            arguments.seed,
            arguments.batch_size,
            arguments.workers,
        )
        return map(model, batches)

    optimizer_list = optimizers([encoder.network], [model], arguments.learning_rate, OTHERS_RATE)
    steps, decay_ratio = arguments.steps, arguments.decay_ratio
    train(model, losses, optimizer_list, steps, out, encoder.save, decay_ratio)


def parse_args() -> Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="python -m playground.pretraining.encoders", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--encoder-set", choices=[s.name for s in ENCODER_SETS], default="base")
    parser.add_argument(
        "--tower", choices=TOWERS, help="train only this encoder of the set; default: both"
    )
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="output folder of the encoders")
    parser.add_argument(
        "--init-from", type=Path, help="output folder of an earlier run, for initial weights"
    )
    parser.add_argument(
        "--language-model",
        type=Path,
        help="folder with the cell code, a regression target; default: no such target",
    )
    parser.add_argument(
        "--photos", type=Path, help=f"folder of photographs used in scenes; {FETCH_HINT}"
    )
    parser.add_argument("--steps", type=count, default=7500, help="steps of each encoder")
    parser.add_argument("--batch-size", type=count, default=8, help="images per step")
    parser.add_argument("--learning-rate", type=fraction, default=2e-3)
    parser.add_argument(
        "--page-ratio", type=fraction, default=0.4, help="share of dense text pages"
    )
    parser.add_argument(
        "--decay-ratio", type=fraction, default=0.4, help="share of steps with learning-rate decay"
    )
    parser.add_argument("--workers", type=count, default=1)
    parser.add_argument("--seed", type=int, default=1_000_000_000)
    return parser.parse_args()


def main() -> None:
    """Train the encoders of a set, one after the other."""
    arguments = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for spec in encoder_set(arguments.encoder_set).encoders:
        if arguments.tower in (None, spec.tower):
            pretrain(spec, arguments)


if __name__ == "__main__":
    run_command(main)
