"""The entry point by which lmms-eval learns of our model (group `lmms_eval.models`)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> "ModelManifest":
    """What `--model mgm` stands for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("mgm", simple_class_path="mgm.eval.lmms.model.LMMSMiniGemini")
