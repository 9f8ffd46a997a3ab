"""Tells transformers' Auto classes about our processors."""

from transformers import AutoImageProcessor, AutoProcessor

from mgm.data.image_processor import MGMImageProcessor
from mgm.data.processor import MGMProcessor
from mgm.model.config import MGMConfig


def register() -> None:
    """Make AutoProcessor and AutoImageProcessor give ours for the folder of our models."""
    AutoImageProcessor.register(
        MGMConfig,
        slow_image_processor_class=MGMImageProcessor,
        fast_image_processor_class=MGMImageProcessor,  # the same: transformers warns without one
        exist_ok=True,
    )
    AutoProcessor.register(MGMConfig, MGMProcessor, exist_ok=True)
