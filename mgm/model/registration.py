"""Makes transformers' Auto classes know Mini-Gemini, published model types included."""

from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from mgm.model.config import MGMConfig
from mgm.model.convnext_config import ConvNextTowerConfig
from mgm.model.families import TEXT_TYPE_OF_PUBLISHED
from mgm.model.mgm import MGMForConditionalGeneration


def register() -> None:
    """Register config and model; calling it again changes nothing."""
    AutoConfig.register(MGMConfig.model_type, MGMConfig, exist_ok=True)
    AutoConfig.register(ConvNextTowerConfig.model_type, ConvNextTowerConfig, exist_ok=True)
    for model_type in TEXT_TYPE_OF_PUBLISHED:
        # Not through AutoConfig, which wants one class for each type: all are the one MGMConfig.
        CONFIG_MAPPING.register(model_type, MGMConfig, exist_ok=True)
    AutoModelForImageTextToText.register(MGMConfig, MGMForConditionalGeneration, exist_ok=True)
