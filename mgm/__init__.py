"""Mini-Gemini: two vision encoders, patch info mining and any language model.

Importing it makes AutoConfig, AutoProcessor and AutoModelForImageTextToText know our models.
"""

from mgm.data.image_processor import MGMImageProcessor
from mgm.data.processor import MGMProcessor
from mgm.data.registration import register as register_processors
from mgm.engine.engine import Engine
from mgm.engine.loading import load
from mgm.engine.request import Answer, Request
from mgm.errors import MGMError
from mgm.model.config import MGMConfig
from mgm.model.mgm import MGMForConditionalGeneration
from mgm.model.registration import register as register_models

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "Engine",
    "MGMConfig",
    "MGMError",
    "MGMForConditionalGeneration",
    "MGMImageProcessor",
    "MGMProcessor",
    "Request",
    "load",
]

register_models()
register_processors()
