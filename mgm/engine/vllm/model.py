"""Mini-Gemini as a multimodal model of vLLM: our vision encoders, vLLM's language model.

Vision encoders, mining and projector are the same modules as elsewhere, replicated in each process;
the language model is vLLM's own, with its tensor and pipeline parallelism.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import BatchFeature
from vllm.config import VllmConfig
from vllm.config.multimodal import MultiModalDummyOptions
from vllm.model_executor.models.interfaces import (
    MultiModalEmbeddings,
    SupportsMultiModal,
    SupportsPP,
)
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    init_vllm_registered_model,
    maybe_prefix,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdate,
)
from vllm.sequence import IntermediateTensors

from mgm.data.processing_mgm import MGMProcessor
from mgm.data.text.templates import IMAGE_MARKER
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.image_features import ImageFeaturesMixin

PIXELS = "pixel_values_aux"  # in uint8: both views are computed from it on the device


class ProcessingInfo(BaseProcessingInfo):
    """Properties of the model's images for vLLM."""

    def get_hf_config(self) -> MGMConfig:
        """The model's config."""
        return self.ctx.get_hf_config(MGMConfig)

    def get_hf_processor(self, **kwargs: object) -> MGMProcessor:
        """The model's processor."""
        return self.ctx.get_hf_processor(MGMProcessor, **kwargs)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """No limit on the number of images."""
        return {"image": None}

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int]:
        """Every image has the same number of tokens."""
        return {"image": self.get_hf_config().image_tokens_per_image}


class DummyInputs(BaseDummyInputsBuilder[ProcessingInfo]):
    """The largest inputs, with which vLLM profiles memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """One image marker for each image."""
        return IMAGE_MARKER * mm_counts.get("image", 0)

    def get_dummy_mm_data(
        self,
        seq_len: int,
        mm_counts: Mapping[str, int],
        mm_options: Mapping[str, MultiModalDummyOptions],
    ) -> dict[str, Any]:
        """Dummy images of the model's input size."""
        side = self.info.get_hf_config().image_size_aux
        count = mm_counts.get("image", 0)
        images = self._get_dummy_images(
            width=side, height=side, num_images=count, overrides=mm_options.get("image")
        )
        return {"image": images}


class Processor(BaseMultiModalProcessor[ProcessingInfo]):
    """Preprocesses images with our processor, and expands their markers."""

    def _call_hf_processor(
        self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]
    ) -> BatchFeature:
        images = self.info.get_hf_processor().image_processor
        return images(hf_data["images"], do_normalize=False)

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {PIXELS: MultiModalFieldConfig.batched("image")}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptUpdate]:
        config = self.info.get_hf_config()
        marker = [config.image_token_id]
        return [PromptReplacement("image", marker, marker * config.image_tokens_per_image)]


@MULTIMODAL_REGISTRY.register_processor(Processor, info=ProcessingInfo, dummy_inputs=DummyInputs)
class VLLMMiniGemini(ImageFeaturesMixin, nn.Module, SupportsMultiModal, SupportsPP):
    """Mini-Gemini with vLLM's model interface.

    Args:
        vllm_config: vLLM's configuration.
        prefix: prefix of weight names.
    """

    packed_modules_mapping: ClassVar[dict[str, list[str]]] = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """The image marker in prompts."""
        return IMAGE_MARKER if modality == "image" else None

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.config = config
        # vLLM reads it from the top-level config; ours has it in `text_config`.
        config.tie_word_embeddings = config.text_config.tie_word_embeddings
        self.configure_mm_token_handling(
            vocab_size=config.text_config.vocab_size, mm_token_ids=[config.image_token_id]
        )
        with self._mark_tower_model(vllm_config, "image"):
            self.build_vision(config)
        with self._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=config.text_config,
                prefix=maybe_prefix(prefix, "language_model"),
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def embed_multimodal(self, **kwargs: object) -> MultiModalEmbeddings:
        """Image features, in place of the embeddings of image tokens."""
        pixels = kwargs.get(PIXELS)
        return (
            self.get_image_features(pixel_values_aux=pixels) if isinstance(pixels, Tensor) else []
        )

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor | IntermediateTensors:
        """Hidden states of the language model."""
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model.model(
            input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds
        )

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Logits of the language model."""
        return self.language_model.compute_logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load weights of the native layout, whose names are the same here."""
        return AutoWeightsLoader(self).load_weights(weights)

    def get_mm_mapping(self) -> MultiModelKeys:
        """Prefixes of language model, connector and vision encoders."""
        return MultiModelKeys.from_string_field(
            language_model="language_model",
            connector=["mining", "projector"],
            tower_model=["vision_tower", "vision_tower_aux"],
        )
