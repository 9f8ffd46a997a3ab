"""Mini-Gemini: two vision encoders, patch info mining and any language model.

Importing it makes AutoConfig, AutoProcessor and AutoModelForImageTextToText know our models.
"""

from mgm.auto import register
from mgm.data.image_processing_mgm import MGMImageProcessor
from mgm.data.processing_mgm import MGMProcessor
from mgm.engine.core.request import Answer, Request
from mgm.engine.engine import Engine
from mgm.engine.loading import load
from mgm.errors import MGMError
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.vision.fusion.fusion_config import FusionConfig

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "Engine",
    "FusionConfig",
    "MGMConfig",
    "MGMError",
    "MGMForConditionalGeneration",
    "MGMImageProcessor",
    "MGMProcessor",
    "Request",
    "load",
]

register()
