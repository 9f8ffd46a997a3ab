"""Entry point of the group `lmms_eval.models`, which registers `--model mgm`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> "ModelManifest":
    """The manifest of `--model mgm`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("mgm", simple_class_path="mgm.eval.lmms.model.LMMSMiniGemini")
