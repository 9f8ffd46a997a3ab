"""Entry point of the vLLM plug-in (group `vllm.general_plugins`)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.config import ModelConfig

TOKENIZER_MODE = "mgm"
ARCHITECTURE = "MGMForConditionalGeneration"  # in config.json


def register() -> None:
    """Register Mini-Gemini in vLLM and transformers; vLLM calls it in every process."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    class Settings(VerifyAndUpdateConfig):
        """Defaults of vLLM's model config for our models."""

        @staticmethod
        def verify_and_update_model_config(model_config: "ModelConfig") -> None:
            if model_config.tokenizer_mode == "auto":
                model_config.tokenizer_mode = TOKENIZER_MODE

    ModelRegistry.register_model(ARCHITECTURE, "mgm.engine.vllm.model:VLLMMiniGemini")
    MODELS_CONFIG_MAP[ARCHITECTURE] = Settings
    if TOKENIZER_MODE not in TokenizerRegistry.tokenizers:
        TokenizerRegistry.register(TOKENIZER_MODE, "mgm.engine.vllm.tokenizer", "VLLMTokenizer")
        RENDERER_REGISTRY.register(TOKENIZER_MODE, "vllm.renderers.hf", "HfRenderer")
