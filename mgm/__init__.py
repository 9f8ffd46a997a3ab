"""Mini-Gemini: two vision encoders, patch info mining and any language model."""

import importlib
from typing import TYPE_CHECKING, Any

from mgm.auto_classes import register_on_first_use

if TYPE_CHECKING:
    from mgm.data.image_processor import MGMImageProcessor
    from mgm.data.processor import MGMProcessor
    from mgm.engine.engine import Engine, load
    from mgm.engine.request import Answer, Request
    from mgm.errors import MGMError
    from mgm.model.config import MGMConfig
    from mgm.model.mgm import MGMForConditionalGeneration

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

# Imported on first use: torch and transformers take seconds.
_PLACES = {
    "Answer": "mgm.engine.request",
    "Engine": "mgm.engine.engine",
    "MGMConfig": "mgm.model.config",
    "MGMError": "mgm.errors",
    "MGMForConditionalGeneration": "mgm.model.mgm",
    "MGMImageProcessor": "mgm.data.image_processor",
    "MGMProcessor": "mgm.data.processor",
    "Request": "mgm.engine.request",
    "load": "mgm.engine.engine",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'mgm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_PLACES]


register_on_first_use()
