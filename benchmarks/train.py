"""Training throughput of stage 2: mgm and a training loop as in the published implementation.

    python -m benchmarks.train [--device cuda --dtype bfloat16]

The published loop has padded batches in random order, float32 logits of every position, mining with
keys and values of the whole map, CLIP with all layers, and black images for text-only samples. mgm
has packed rows, logits at labelled positions only, and no images for text-only samples. Both use
AdamW. On a CPU the model is the nano model, on a GPU one of MGM-2B's size with random weights. Both
train on the same tokens, so that the ratio of times is that of tokens per second.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import OURS, PUBLISHED, Case, Settings, is_selected, report, settings
from benchmarks.published import eager_clip, image_features
from mgm.data.datasets.collator import Collator
from mgm.data.datasets.packing import PackedCollator, pack
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.labels import IGNORE_INDEX
from mgm.model.loading import load_model
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.multimodal_embeddings import merge_image_features
from mgm.model.vision.image_views import ImageViews

ROOT = Path(__file__).parents[1]
NANO = ROOT / "playground" / "mgm-nano"
GEMMA = ROOT / "scripts" / "gemma" / "gemma-2b.json"
SAMPLES, SMALL_SAMPLES = 32, 4
BATCH = 8  # samples per batch of the published loop
TEXT_ONLY = 0.1  # share of samples without an image
SUPERVISED = 0.6  # share of the text tokens of a sample
Sample = dict[str, Tensor]


def cases(chosen: Settings) -> Iterator[Case]:
    """Generate the only case, if it is selected."""
    name = "nano" if chosen.device == "cpu" else "2B"
    if is_selected(name, chosen):
        yield case(name, chosen)


def case(name: str, chosen: Settings) -> Case:
    """Both loops on the same samples, starting from the same weights."""
    torch.manual_seed(0)
    model = load_model(NANO) if name == "nano" else large()
    model = model.to(chosen.device, chosen.dtype).train()
    model.requires_grad_(False)
    for part in (model.language_model, model.mining, model.projector):
        assert part is not None
        part.requires_grad_(True)
    samples = random_samples(model, SMALL_SAMPLES if chosen.small else SAMPLES)
    tokens = sum(len(sample["input_ids"]) for sample in samples)
    padded, packed = padded_batches(model, samples), packed_batches(model, samples)
    label_count = sum(int((sample["labels"][1:] != IGNORE_INDEX).sum()) for sample in samples)
    clip = eager_clip(model.vision_tower)
    views = ImageViews.of(model.config)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-6)

    def ours_loss(batch: dict[str, Tensor]) -> Tensor:
        loss = model(**on_device(batch, chosen.device), num_items_in_batch=label_count).loss
        assert loss is not None
        return loss

    def published_loss(batch: dict[str, Tensor]) -> Tensor:
        batch = on_device(batch, chosen.device)
        with torch.no_grad():
            high = views.normalise(batch["pixel_values_aux"])
            low = views.low_resolution(high)
        features = image_features(
            model, clip, low.to(chosen.dtype), high.to(chosen.dtype)
        )  # black images, too
        ids, mask = batch["input_ids"], batch["attention_mask"]
        has_image = (ids == model.config.image_token_id).any(1)
        embedded = merge_image_features(
            model.get_input_embeddings(), ids, features[has_image], model.config, mask
        )
        output: Any = model.language_model(inputs_embeds=embedded, attention_mask=mask)
        logits, labels = output.logits.float()[:, :-1], batch["labels"][:, 1:]
        flat = logits.reshape(-1, logits.shape[-1])
        total = F.cross_entropy(
            flat, labels.reshape(-1), ignore_index=IGNORE_INDEX, reduction="sum"
        )
        return total / label_count

    def steps(loss_of: Any, batches: list[dict[str, Tensor]]) -> None:
        for batch in batches:
            loss_of(batch).backward()
            optimizer.step()
            optimizer.zero_grad()

    with torch.no_grad():
        ours = sum(ours_loss(batch).item() for batch in packed)
        published = sum(published_loss(batch).item() for batch in padded)
    return Case(
        f"{name}, {len(samples)} samples, {tokens:,} tokens",
        {OURS: lambda: steps(ours_loss, packed), PUBLISHED: lambda: steps(published_loss, padded)},
        abs(ours - published) / abs(published),
    )


def large() -> MGMForConditionalGeneration:
    """A model of MGM-2B's size with random weights."""
    config = MGMConfig(text_config=json.loads(GEMMA.read_text()), vision_aux_config={})
    return MGMForConditionalGeneration(config)


def random_samples(model: MGMForConditionalGeneration, count: int) -> list[Sample]:
    """Samples of random tokens and pixels, nine in ten with an image."""
    config = model.config
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randn(count, generator=draw).mul(0.7).add(4.4).exp().clamp(16, 400).long()
    samples = []
    for number, length in enumerate(lengths.tolist()):
        ids = torch.randint(5, config.text_config.vocab_size - 5, (length,), generator=draw)
        labels = ids.clone()
        labels[: int(length * (1 - SUPERVISED))] = IGNORE_INDEX
        sample = {}
        if number >= count * TEXT_ONLY:
            span = torch.full((config.image_tokens_per_image,), config.image_token_id)
            ids = torch.cat([span, ids])
            labels = torch.cat([torch.full_like(span, IGNORE_INDEX), labels])
            side = config.image_size_aux
            pixels = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8, generator=draw)
            sample["pixel_values_aux"] = pixels
        labels[0] = IGNORE_INDEX
        samples.append(sample | {"input_ids": ids, "labels": labels})
    order = torch.randperm(count, generator=draw).tolist()
    return [samples[index] for index in order]


def padded_batches(
    model: MGMForConditionalGeneration, samples: list[Sample]
) -> list[dict[str, Tensor]]:
    """Padded batches in the order of the samples, with a black image for text-only samples."""
    side = model.config.image_size_aux
    black = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    whole = [{"pixel_values_aux": black} | sample for sample in samples]
    collate = collator(model)
    return [collate(whole[start : start + BATCH]) for start in range(0, len(whole), BATCH)]


def packed_batches(
    model: MGMForConditionalGeneration, samples: list[Sample]
) -> list[dict[str, Tensor]]:
    """As many batches, of one packed row each."""
    lengths = [len(sample["input_ids"]) for sample in samples]
    images = [len(sample.get("pixel_values_aux", ())) for sample in samples]
    steps = -(-len(samples) // BATCH)
    limit = max(*lengths, int(1.05 * sum(lengths) / steps))
    collate = PackedCollator(collator(model))
    rows = pack(lengths, images, limit, seed=0)
    return [collate([[samples[index] for index in row]]) for row in rows]


def collator(model: MGMForConditionalGeneration) -> Collator:
    """A collator that does not truncate."""
    return Collator(0, model.config.image_token_id, model.config.image_tokens_per_image)


def on_device(batch: dict[str, Tensor], device: str) -> dict[str, Tensor]:
    """Move a batch to a device."""
    return {name: tensor.to(device) for name, tensor in batch.items()}


if __name__ == "__main__":
    chosen = settings(__doc__ or "")
    report("Training, stage 2", cases(chosen), chosen)
