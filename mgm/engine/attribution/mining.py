"""Mining attribution: image tokens' attention to pixels, and an answer's attention to tokens."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mgm.engine.attribution.attention_probe import probe_attention
from mgm.engine.attribution.mining_attribution import MiningAttribution
from mgm.engine.core.request import Request
from mgm.engine.engine import Engine
from mgm.errors import MGMError
from mgm.model.multimodal_embeddings import merge_image_features


def attribute_mining(engine: Engine, request: Request, answer: str = "") -> list[MiningAttribution]:
    """Compute the mining attribution of every image of a request.

    Args:
        engine: runs the model.
        request: the request.
        answer: text of the answer; empty: only the attention of mining is computed.

    Raises:
        MGMError: the request has no image, the model has no mining, or the prompt is too long.
    """
    if not request.images:
        raise MGMError("the request has no image; give one")
    if engine.model.mining is None:
        raise MGMError("the model has no high-resolution encoder, and so no mining")
    images = [
        engine.images.open(source, f"image {number} of {len(request.images)}", request.orientation)
        for number, source in enumerate(request.images, start=1)
    ]
    processor = engine.processor.image_processor
    pixels = processor(images, do_normalize=False)["pixel_values_aux"]
    mining = [
        engine.run_in_engine(
            partial(engine.model.mining_attention, one[None].to(engine.model.device))
        )
        for one in pixels
    ]
    attention: Sequence[np.ndarray | None] = [None] * len(images)
    if answer:
        attention = _answer_attention(engine, request, answer)
    return [
        MiningAttribution(
            Image.fromarray(np.ascontiguousarray(one.permute(1, 2, 0).numpy())),
            engine.model.config.image_grid,
            weights[0].cpu().numpy(),
            of_image,
        )
        for one, weights, of_image in zip(pixels, mining, attention, strict=True)
    ]


def _answer_attention(engine: Engine, request: Request, answer: str) -> Sequence[np.ndarray | None]:
    """The attention of an answer to the tokens of each image: (crops, tokens), global view last."""
    processor, model = engine.processor, engine.model
    prompt_ids = processor.encode(engine.prompt(request))
    answer_ids = processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
    remaining = engine.context_length - len(prompt_ids)
    if remaining < 1:
        raise MGMError(
            f"the prompt takes {len(prompt_ids)} tokens, all that the model's context has"
        )
    if not answer_ids:
        return [None] * len(request.images)
    ids = torch.tensor([[*prompt_ids, *answer_ids[:remaining]]], device=model.device)
    encoded = engine.images.encode(request.images, request.orientation)
    features = torch.stack([one.to(model.device) for one in encoded])

    def probe() -> Tensor:
        embedding = model.get_input_embeddings()
        merged = merge_image_features(embedding, ids, features, model.config, None)
        # A token is predicted at the position before its own.
        num_queries = ids.shape[1] - len(prompt_ids)
        return probe_attention(model.language_model, merged[:, :-1], num_queries)

    attention = engine.run_in_engine(torch.inference_mode()(probe))
    at_image = ids[0, :-1] == model.config.image_token_id
    per_image = attention[at_image].view(len(features), model.config.crops, -1)
    grid_crops = model.config.image_grid**2
    # In the prompt the global view comes first.
    global_views = per_image.shape[1] - grid_crops
    ordered = torch.cat([per_image[:, global_views:], per_image[:, :global_views]], dim=1)
    return list(ordered.float().cpu().numpy())
