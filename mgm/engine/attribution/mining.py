"""Which pixels of an image the visual tokens drew on, and which tokens an answer."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mgm.engine.attribution.attention_probe import answer_attention
from mgm.engine.attribution.mined_detail import MinedDetail
from mgm.engine.core.request import Request
from mgm.engine.engine import Engine
from mgm.errors import MGMError
from mgm.model.multimodal_embeddings import merge_image_features


def mined_details(engine: Engine, request: Request, answer: str = "") -> list[MinedDetail]:
    """What was mined of every image of a request.

    Args:
        engine: whose model it is.
        request: what was asked.
        answer: what was answered; empty: only mining is shown.

    Raises:
        MGMError: there is no image, the model mines nothing, or the prompt is too long.
    """
    if not request.images:
        raise MGMError("there is no image; nothing was mined")
    if engine.model.mining is None:
        raise MGMError("this model mines no details; it has no high-resolution encoder")
    images = [
        engine.open_image(source, f"image {number} of {len(request.images)}", request.orientation)
        for number, source in enumerate(request.images, start=1)
    ]
    processor = engine.processor.image_processor
    pixels = processor(images, do_normalize=False)["pixel_values_aux"]
    mining = [
        engine.compute(partial(engine.model.mining_attention, one[None].to(engine.model.device)))
        for one in pixels
    ]
    shares = _answer_shares(engine, request, answer) if answer else [None] * len(images)
    return [
        MinedDetail(
            Image.fromarray(np.ascontiguousarray(one.permute(1, 2, 0).numpy())),
            engine.model.config.image_grid,
            weights[0].cpu().numpy(),
            share,
        )
        for one, weights, share in zip(pixels, mining, shares, strict=True)
    ]


def _answer_shares(engine: Engine, request: Request, answer: str) -> Sequence[np.ndarray | None]:
    """The attention of an answer to the tokens of each image: (crops, tokens), cells first."""
    processor, model = engine.processor, engine.model
    prompt = processor.encode(engine.prompt(request))
    written = processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
    room = engine.context - len(prompt)
    if room < 1:
        raise MGMError(f"the prompt takes {len(prompt)} tokens, all that the model's context has")
    if not written:
        return [None] * len(request.images)
    ids = torch.tensor([[*prompt, *written[:room]]], device=model.device)
    encoded = engine.encode_images(request.images, request.orientation)
    features = torch.stack([one.to(model.device) for one in encoded])

    def look() -> Tensor:
        embedding = model.get_input_embeddings()
        merged = merge_image_features(embedding, ids, features, model.config, None)
        # A token is written at the position before its own.
        watched = ids.shape[1] - len(prompt)
        return answer_attention(model.language_model, merged[:, :-1], watched)

    attention = engine.compute(torch.inference_mode()(look))
    at_image = ids[0, :-1] == model.config.image_token_id
    per_image = attention[at_image].view(len(features), model.config.crops, -1)
    cells = model.config.image_grid**2
    # In the text the global view comes first.
    of_global = per_image.shape[1] - cells
    ordered = torch.cat([per_image[:, of_global:], per_image[:, :of_global]], dim=1)
    return list(ordered.float().cpu().numpy())
