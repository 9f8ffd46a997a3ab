"""Checks that a processor's image settings match a model's config."""

from mgm.data.image_processing_mgm import IMAGE_CONFIG_FIELDS
from mgm.data.processing_mgm import MGMProcessor
from mgm.errors import MGMError
from mgm.model.configuration_mgm import MGMConfig


def check_match(config: MGMConfig, processor: MGMProcessor) -> None:
    """Check that a processor prepares images as a model expects them.

    Args:
        config: config of the model.
        processor: processor to check.

    Raises:
        MGMError: names a setting of images or image tokens that differs.
    """
    images = processor.image_processor
    pairs = [(name, images) for name in IMAGE_CONFIG_FIELDS if name != "image_aspect_ratio"]
    pairs += [(name, processor) for name in ("image_token_id", "image_tokens_per_image")]
    for name, of in pairs:
        own, other = getattr(config, name), getattr(of, name)
        if (list(own) != list(other)) if isinstance(own, list) else own != other:
            raise MGMError(
                f"{name} is {own!r} in the model's config but {other!r} in its processor's "
                "settings; make them agree"
            )
