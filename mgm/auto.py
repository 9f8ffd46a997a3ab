"""Makes transformers' Auto classes know Mini-Gemini, published model types included."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from mgm.data.image_processing_mgm import MGMImageProcessor
from mgm.data.processing_mgm import MGMProcessor
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.families import TEXT_TYPE_OF_PUBLISHED
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.vision.convnext_config import ConvNextTowerConfig


def register() -> None:
    """Register config, model and processors; calling it again changes nothing."""
    AutoConfig.register(MGMConfig.model_type, MGMConfig, exist_ok=True)
    AutoConfig.register(ConvNextTowerConfig.model_type, ConvNextTowerConfig, exist_ok=True)
    for model_type in TEXT_TYPE_OF_PUBLISHED:
        # Not through AutoConfig, which wants one class for each type: all are the one MGMConfig.
        CONFIG_MAPPING.register(model_type, MGMConfig, exist_ok=True)
    AutoModelForImageTextToText.register(MGMConfig, MGMForConditionalGeneration, exist_ok=True)
    AutoImageProcessor.register(
        MGMConfig,
        slow_image_processor_class=MGMImageProcessor,
        fast_image_processor_class=MGMImageProcessor,  # the same: transformers warns without one
        exist_ok=True,
    )
    AutoProcessor.register(MGMConfig, MGMProcessor, exist_ok=True)
