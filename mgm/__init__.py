"""Mini-Gemini: two vision encoders, patch info mining and any language model.

Importing it loads neither torch nor transformers; each of its names is imported on first use.
AutoConfig, AutoImageProcessor, AutoModelForImageTextToText and AutoProcessor then know our models,
whether transformers is imported before or after.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mgm.auto import register

if TYPE_CHECKING:
    from mgm.data.image_processing_mgm import MGMImageProcessor
    from mgm.data.processing_mgm import MGMProcessor
    from mgm.engine.core.request import Answer, Request
    from mgm.engine.engine import Engine
    from mgm.engine.loading import load
    from mgm.engine.scheduler.config import SchedulerConfig
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
    "SchedulerConfig",
    "load",
]
_MODULES = {
    "Answer": "mgm.engine.core.request",
    "Engine": "mgm.engine.engine",
    "FusionConfig": "mgm.model.vision.fusion.fusion_config",
    "MGMConfig": "mgm.model.configuration_mgm",
    "MGMError": "mgm.errors",
    "MGMForConditionalGeneration": "mgm.model.modeling_mgm",
    "MGMImageProcessor": "mgm.data.image_processing_mgm",
    "MGMProcessor": "mgm.data.processing_mgm",
    "Request": "mgm.engine.core.request",
    "SchedulerConfig": "mgm.engine.scheduler.config",
    "load": "mgm.engine.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register()
