"""Pre-train the nano encoders on drawn pages and scenes.

The ConvNeXt learns, by linear heads on three of its stages, which character stands where. Both
encoders learn what things stand where and in which colour, and to match images with captions; and
together, through a mining, they learn the code in which the language model reads cells. Mining,
heads and caption encoder are thrown away.
"""

import json
import logging
import math
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from mgm.atomic import atomic_folder
from mgm.data.image_processing_mgm import CLIP_MEAN, CLIP_STD
from mgm.engine.device import cpu_has_bfloat16
from mgm.errors import Parser, run_command
from mgm.model.vision.patch_info_mining import PatchInfoMining
from playground.arguments import count, fraction
from playground.pretraining.cell_code import SLOTS, CellCode, load_code
from playground.pretraining.drawn_images import CAPTION_TOKENS, DrawnImages
from playground.pretraining.loop import batches_after, optimizers, train
from playground.pretraining.targets import (
    CHARACTERS,
    COLOR_IDS,
    FRAME,
    SIDE,
    THING_IDS,
)
from playground.tokenizer import read_tokenizer

CONVNEXT_DEPTHS, CONVNEXT_DIMS = (1, 2, 2, 1), (24, 48, 128, 256)
CLIP_SIZE, CLIP_WIDTH = 14 * SIDE, 256
CONVNEXT_NAME = f"convnext-nano-{FRAME}"
CLIP_NAME = f"clip-vit-nano-patch14-{CLIP_SIZE}"
CLASSES = len(CHARACTERS) + 1
OTHERS_RATE = 1e-3  # the learning rate of all but matrices
NOTHING_WEIGHT = 0.2  # most slots hold nothing
EMPTY_CELLS = 0.1  # share of the cells without any character that are looked at


class CaptionEncoder(nn.Module):
    """Caption ids (batch, tokens) to unit vectors (batch, width)."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.position = nn.Parameter(0.02 * torch.randn(CAPTION_TOKENS, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, 0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, tokens) ids, 0 for padding -> (batch, width), of length 1."""
        padding = ids == 0
        hidden = self.layers(self.embedding(ids) + self.position, src_key_padding_mask=padding)
        weights = (~padding).unsqueeze(-1).to(hidden.dtype)
        return F.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)


class Pretraining(nn.Module):
    """Both encoders with the heads and losses that teach them."""

    def __init__(self, vocabulary: int, code: CellCode | None) -> None:
        super().__init__()
        self.code = code
        if code is not None:
            self.speak = nn.Linear(CLIP_WIDTH, code.row.shape[-1])
        self.mining = PatchInfoMining(CLIP_WIDTH, CONVNEXT_DIMS)
        self.convnext = ConvNeXt(
            depths=CONVNEXT_DEPTHS, dims=CONVNEXT_DIMS, num_classes=0, ls_init_value=0.5
        )
        self.clip = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=CLIP_WIDTH,
                intermediate_size=2 * CLIP_WIDTH,
                num_hidden_layers=3,
                num_attention_heads=4,
                image_size=CLIP_SIZE,
                patch_size=14,
                projection_dim=CLIP_WIDTH,
            )
        )
        things, colors = len(THING_IDS) + 1, len(COLOR_IDS) + 1
        self.middle = nn.Linear(CONVNEXT_DIMS[2], 8 * CLASSES)
        self.coarse = nn.Linear(CONVNEXT_DIMS[3], SLOTS * CLASSES)
        self.mined = nn.Linear(CLIP_WIDTH, SLOTS * CLASSES)
        self.middle_things = nn.Linear(CONVNEXT_DIMS[2], things + colors)
        self.coarse_things = nn.Linear(CONVNEXT_DIMS[3], 4 * (things + colors))
        self.clip_things = nn.Linear(CLIP_WIDTH, 4 * (things + colors))
        self.things = things
        self.pooled = nn.Linear(CONVNEXT_DIMS[3], CLIP_WIDTH)
        self.caption_encoder = CaptionEncoder(vocabulary, CLIP_WIDTH)
        self.temperature = nn.Parameter(torch.tensor(math.log(10.0)))
        self.mean = torch.tensor(CLIP_MEAN).view(1, 3, 1, 1)
        self.std = torch.tensor(CLIP_STD).view(1, 3, 1, 1)
        self.character_weights = torch.ones(CLASSES)
        self.character_weights[0] = NOTHING_WEIGHT

    @torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16())
    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The summed loss, and the figures to show (losses and shares of characters found)."""
        image = batch["image"].permute(0, 3, 1, 2).float().div(255).sub(self.mean).div(self.std)
        small = F.interpolate(image, size=CLIP_SIZE, mode="bilinear")
        stages = self.stages(image.contiguous(memory_format=torch.channels_last))
        seen = self.clip(small, output_hidden_states=True)
        tokens = seen.hidden_states[-2][:, 1:]
        patches = tokens.unflatten(1, (SIDE, SIDE))
        middle, coarse = (stage.permute(0, 2, 3, 1) for stage in stages[2:])
        mined = tokens + self.mining(tokens, stages)
        losses, figures = {}, {}
        views = {
            "middle": (middle, batch["middle"]),
            "coarse": (coarse, batch["coarse"]),
            "mined": (mined.unflatten(1, (SIDE, SIDE)), batch["coarse"]),
        }
        for name, (features, target) in views.items():
            head = getattr(self, name)
            looked_at = target.any(-1) | (torch.rand(target.shape[:-1]) < EMPTY_CELLS)
            logits = head(features[looked_at]).unflatten(-1, (-1, CLASSES))
            losses[name], figures[name] = self._characters(logits, target[looked_at])
        losses["things"] = (
            self._things(self.middle_things(middle), batch)
            + self._things(_split(self.coarse_things(coarse)), batch)
            + self._things(_split(self.clip_things(patches)), batch)
        )
        if self.code is not None:
            losses["code"] = 4 * self._code(self.code, mined, batch)
        captioned = batch["caption"].ne(0).any(1)
        if captioned.sum() > 1:
            text = self.caption_encoder(batch["caption"][captioned])
            pooled = self.pooled(coarse.mean((1, 2)))[captioned]
            for vectors in (pooled, seen.pooler_output[captioned]):
                losses["contrast"] = losses.get("contrast", 0) + 0.25 * self._contrast(
                    vectors, text
                )
        total = sum(losses.values())
        figures |= {name: loss.detach() for name, loss in losses.items() if name not in figures}
        return total, figures

    def stages(self, image: Tensor) -> list[Tensor]:
        """The maps of all four stages, (batch, channels, height, width) each."""
        hidden, maps = self.convnext.stem(image), []
        for stage in self.convnext.stages:
            hidden = stage(hidden)
            maps.append(hidden)
        return maps

    def _characters(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        loss = F.cross_entropy(
            logits.flatten(0, -2).float(), target.flatten(), self.character_weights
        )
        there = target > 0
        accuracy = (logits.argmax(-1)[there] == target[there]).float().mean()
        return loss, accuracy.nan_to_num()

    def _things(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        logits = logits.float()
        things, colors = logits[..., : self.things], logits[..., self.things :]
        return 0.5 * (
            F.cross_entropy(things.flatten(0, -2), batch["things"].flatten())
            + F.cross_entropy(colors.flatten(0, -2), batch["colors"].flatten())
        )

    def _code(self, code: CellCode, mined: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """The share of the code's variance that a linear view of the mined tokens misses."""
        cells = {name[5:]: batch[name] for name in batch if name.startswith("cell_")}
        target = code(cells)
        seen = self.speak(mined).float()
        return (seen - target).square().mean() / (target - target.mean((0, 1))).square().mean()

    def _contrast(self, images: Tensor, texts: Tensor) -> Tensor:
        logits = (F.normalize(images, dim=-1) @ texts.T).float() * self.temperature.exp().clamp(
            max=100
        )
        target = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _split(logits: Tensor) -> Tensor:
    """(batch, 12, 12, 4 * classes) to (batch, 24, 24, classes)."""
    batch, rows, columns, _ = logits.shape
    cells = logits.view(batch, rows, columns, 2, 2, -1)
    return cells.permute(0, 1, 3, 2, 4, 5).reshape(batch, 2 * rows, 2 * columns, -1)


def save_encoders(model: Pretraining, folder: Path) -> None:
    """Write both encoders in the layouts that the published recipe starts from."""
    preprocess = {"mean": CLIP_MEAN, "std": CLIP_STD}
    vision = {"timm_model_name": "convnext_nano_mgm", "image_size": FRAME}
    state = {f"visual.trunk.{k}": v.contiguous() for k, v in model.convnext.state_dict().items()}
    with atomic_folder(folder / CONVNEXT_NAME) as part:
        config = {
            "model_cfg": {"embed_dim": CLIP_WIDTH, "vision_cfg": vision},
            "preprocess_cfg": preprocess,
        }
        (part / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file(
            {k: v for k, v in state.items() if not k.startswith("visual.trunk.head")},
            part / "open_clip_model.safetensors",
            metadata={"format": "pt"},
        )
    with atomic_folder(folder / CLIP_NAME) as part:
        model.clip.save_pretrained(part)
        config = {
            "image_processor_type": "CLIPImageProcessor",
            "crop_size": {"height": CLIP_SIZE, "width": CLIP_SIZE},
            "size": {"shortest_edge": CLIP_SIZE},
            "image_mean": CLIP_MEAN,
            "image_std": CLIP_STD,
            "resample": 3,
        }
        (part / "preprocessor_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_encoders(model: Pretraining, folder: Path) -> None:
    """Take both encoders, without heads, from what `save_encoders` wrote."""
    state = load_file(folder / CONVNEXT_NAME / "open_clip_model.safetensors")
    prefix = "visual.trunk."
    model.convnext.load_state_dict({k.removeprefix(prefix): v for k, v in state.items()}, False)
    model.clip = CLIPVisionModel.from_pretrained(folder / CLIP_NAME)


def main() -> None:
    """Read the command line and train."""
    parser = Parser(prog="python -m playground.pretraining.encoders", description=__doc__)
    parser.add_argument(
        "--language-model",
        type=Path,
        help="folder with the cell code, which the encoders learn to produce",
    )
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets both encoders")
    parser.add_argument(
        "--init-from", type=Path, help="encoders to continue from, as --out holds them"
    )
    parser.add_argument("--steps", type=count, default=7500)
    parser.add_argument("--batch-size", type=count, default=6)
    parser.add_argument("--learning-rate", type=fraction, default=2e-3)
    parser.add_argument(
        "--page-ratio", type=fraction, default=0.4, help="share of dense text pages"
    )
    parser.add_argument(
        "--decay-ratio", type=fraction, default=0.4, help="share of steps with learning-rate decay"
    )
    parser.add_argument("--workers", type=count, default=1)
    parser.add_argument("--seed", type=int, default=1_000_000_000)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(arguments.seed)
    tokenizer = read_tokenizer(arguments.tokenizer)
    code = load_code(arguments.language_model) if arguments.language_model else None
    model = Pretraining(len(tokenizer), code)
    if arguments.init_from:
        load_encoders(model, arguments.init_from)
    model.convnext.to(memory_format=torch.channels_last)
    model.clip.set_attn_implementation("eager")  # faster than sdpa in bfloat16 on a CPU
    if shutil.which("g++"):
        model.stages = torch.compile(model.stages)
    networks = [model.convnext, model.clip, model.mining]
    by = optimizers(networks, [model], arguments.learning_rate, OTHERS_RATE)

    def losses(done: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        batches = batches_after(
            done,
            lambda seed: DrawnImages(seed, arguments.page_ratio, tokenizer),
            arguments.seed,
            arguments.batch_size,
            arguments.workers,
        )
        return map(model, batches)

    save = partial(save_encoders, model)
    train(model, losses, by, arguments.steps, arguments.out, save, arguments.decay_ratio)


if __name__ == "__main__":
    run_command(main)
