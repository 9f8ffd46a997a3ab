"""Merges image features into text embeddings, at the image positions of `input_ids`."""

import torch
from torch import Tensor, nn

from mgm.errors import MGMError
from mgm.model.configuration_mgm import MGMConfig


def merge_image_features(
    embedding: nn.Module,
    input_ids: Tensor,
    image_features: Tensor | None,
    config: MGMConfig,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Embed text and put image features at the image positions.

    Args:
        embedding: the language model's input embedding.
        input_ids: (batch, length) with `config.image_token_id` at image positions.
        image_features: (images, image tokens, text width) in reading order, or None.
        config: config with the image token id and the number of tokens per image.
        attention_mask: (batch, length); shows where a sample truncated within an image ends.

    Returns:
        (batch, length, text width).

    Raises:
        MGMError: images and image positions do not match.
    """
    at_image = input_ids == config.image_token_id
    one_step = image_features is None and input_ids.shape[1] == 1
    # Comparing counts waits for the device, which a step of generation should not.
    if not (one_step or torch.compiler.is_compiling()):
        image_features = _matching(at_image, image_features, config, attention_mask)
    embeds = embedding(input_ids.masked_fill(at_image, 0))
    if image_features is None:
        return embeds
    # Compat: Gemma scales its embeddings by the square root of their width, and the published code
    # scaled the image features along with them; transformers 5 scales inside the embedding.
    scale = getattr(embedding, "embed_scale", None)
    image_features = image_features.to(embeds.dtype)
    if scale is not None:
        image_features = image_features * torch.as_tensor(scale).to(embeds)
    return embeds.masked_scatter(at_image.unsqueeze(-1), image_features)


def _matching(
    at_image: Tensor,
    image_features: Tensor | None,
    config: MGMConfig,
    attention_mask: Tensor | None,
) -> Tensor | None:
    """Check the number of images against the image positions; cut features as samples were cut."""
    size = config.image_tokens_per_image
    images = 0 if image_features is None else image_features.shape[0]
    positions = at_image.sum(-1).tolist()
    if all(count % size == 0 for count in positions) and sum(positions) == images * size:
        return image_features
    # A sample that was truncated at the maximum length may end within an image.
    ends = _ends_at_image(at_image, attention_mask)
    needed = []
    for row, count in enumerate(positions):
        if count % size and not ends[row]:
            raise MGMError(
                f"sample {row} has {count} image positions; expected a multiple of {size}, "
                "what one image takes: let the processor expand the <image> markers"
            )
        needed.append(-(-count // size))
    if image_features is None or sum(needed) != images:
        raise MGMError(
            f"found {sum(needed)} image markers ({sum(positions)} positions, {size} each) "
            f"but {images} images; give one image for every <image> marker"
        )
    rows = zip(positions, image_features.split(needed), strict=True)
    return torch.cat([features.flatten(0, 1)[:count] for count, features in rows])


def _ends_at_image(at_image: Tensor, attention_mask: Tensor | None) -> list[bool]:
    """Whether the last token is an image position, for each sample."""
    if attention_mask is None or attention_mask.ndim != 2:
        return at_image[:, -1].tolist()
    columns = torch.arange(at_image.shape[1], device=at_image.device)
    last = (attention_mask.bool() * columns).amax(-1, keepdim=True)
    return at_image.gather(1, last).squeeze(-1).tolist()
