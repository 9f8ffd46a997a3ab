"""`generate` with images: passed at prefill only, and repeated for beams and return sequences."""

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin

from mgm.model.configuration_mgm import MGMConfig

IMAGE_INPUTS = ("pixel_values", "pixel_values_aux", "image_features")


class ImageGenerationMixin(GenerationMixin):
    """`GenerationMixin` for batches whose images are in one list, not one list per sample."""

    config: MGMConfig

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *args: Any, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Pass images at prefill alone; later steps have them in the KV cache."""
        parent: Any = super()
        images = {name: kwargs.pop(name) for name in IMAGE_INPUTS if kwargs.get(name) is not None}
        inputs = parent.prepare_inputs_for_generation(
            input_ids, *args, is_first_iteration=is_first_iteration, **kwargs
        )
        # In assisted generation no call counts as the first iteration; an empty cache shows it.
        cache = kwargs.get("past_key_values")
        in_cache = cache is not None and cache.get_seq_length() > 0
        if is_first_iteration or not in_cache:
            inputs |= images
        return inputs

    def _expand_inputs_for_generation(  # ty: ignore[incompatible-method-override]
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """Repeat every sample with its images, for beams or several return sequences."""
        images = {name: kwargs.pop(name) for name in IMAGE_INPUTS if kwargs.get(name) is not None}
        if expand_size > 1 and images and input_ids is not None:
            positions = (input_ids == self.config.image_token_id).sum(-1)
            counts = (positions // self.config.image_tokens_per_image).tolist()
            images = {
                name: torch.cat(
                    [part for chunk in value.split(counts) for part in [chunk] * expand_size]
                )
                for name, value in images.items()
            }
        parent: Any = super()
        input_ids, kwargs = parent._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids=input_ids, **kwargs
        )
        return input_ids, kwargs | images
