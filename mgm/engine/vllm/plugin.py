"""The entry point by which vLLM learns of our models (group `vllm.general_plugins`)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.config import ModelConfig

MODE = "mgm"  # of tokenizers


def register() -> None:
    """Make vLLM, and transformers below it, know Mini-Gemini; vLLM calls it in every process."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    import mgm

    class Settings(VerifyAndUpdateConfig):
        """What our models ask of vLLM where the user says nothing."""

        @staticmethod
        def verify_and_update_model_config(model_config: "ModelConfig") -> None:
            if model_config.tokenizer_mode == "auto":
                model_config.tokenizer_mode = MODE

    name = mgm.MGMForConditionalGeneration.__name__
    ModelRegistry.register_model(name, "mgm.engine.vllm.model:VLLMMiniGemini")
    MODELS_CONFIG_MAP[name] = Settings
    if MODE not in TokenizerRegistry.tokenizers:
        TokenizerRegistry.register(MODE, "mgm.engine.vllm.tokenizer", "VLLMTokenizer")
        RENDERER_REGISTRY.register(MODE, "vllm.renderers.hf", "HfRenderer")
