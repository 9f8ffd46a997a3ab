"""`MGMForConditionalGeneration`: the Mini-Gemini vision-language model as a transformers model."""

from typing import Any, Self, cast

from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from mgm.errors import MGMError
from mgm.model.checkpoint.pretrained_model import MGMPreTrainedModel
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.generation import ImageGenerationMixin
from mgm.model.image_features import ImageFeaturesMixin
from mgm.model.labels import IGNORE_INDEX
from mgm.model.multimodal_embeddings import merge_image_features
from mgm.model.ops.causal_lm_loss import CausalLMLoss
from mgm.model.ops.liger import apply_liger_kernel, liger_linear_cross_entropy
from mgm.model.quantization.bitsandbytes import FULL_PRECISION
from mgm.model.quantization.int8_linear import use_int8
from mgm.model.quantization.moe_experts import use_linear_experts
from mgm.model.vision.convnext import ConvNextTower
from mgm.model.vision.vit import VisionTower


class MGMForConditionalGeneration(ImageFeaturesMixin, MGMPreTrainedModel, ImageGenerationMixin):
    """Mini-Gemini: `vision_tower`, `vision_tower_aux`, `mining`, `projector`, `language_model`.

    Args:
        config: configuration of the model.
        language_model: used instead of a fresh one of `config.text_config`.
        vision_tower: used instead of a fresh one of `config.vision_config`.
        vision_tower_aux: used instead of a fresh one of `config.vision_aux_config`.
        linear_experts: whether experts are linear layers, which can be quantised.
        int8: whether the language model's linear layers hold weights of 8 bits; for inference.
        text_only: whether the vision side (towers, mining, projector) is left out; such a model
            takes text alone.
    """

    def __init__(
        self,
        config: MGMConfig,
        language_model: PreTrainedModel | None = None,
        vision_tower: VisionTower | None = None,
        vision_tower_aux: ConvNextTower | None = None,
        linear_experts: bool = False,
        int8: bool = False,
        text_only: bool = False,
    ) -> None:
        super().__init__(config)
        self.text_only = text_only
        self.has_int8_weights = int8
        self._causal_lm_loss = CausalLMLoss()
        if text_only:
            self.vision_tower, self.projector = cast(VisionTower, nn.Module()), nn.Module()
            self.vision_tower_aux = self.mining = None
        else:
            self.build_vision(config, vision_tower, vision_tower_aux)
        self.language_model = language_model or AutoModelForCausalLM.from_config(config.text_config)
        if linear_experts or int8:
            use_linear_experts(self.language_model)
        if int8:
            use_int8(self.language_model, skip_modules=FULL_PRECISION)
        self.vision_tower.requires_grad_(config.optimize_vision_tower)
        if self.vision_tower_aux is not None:
            self.vision_tower_aux.requires_grad_(config.optimize_vision_tower_aux)
        self.post_init()

    def train(self, mode: bool = True) -> Self:
        """Set training mode; frozen towers stay in evaluation mode unless they have drop path."""
        super().train(mode)
        self.vision_tower.train(mode and self.config.optimize_vision_tower)
        if self.vision_tower_aux is not None:
            drop_path = self.vision_tower_aux.config.drop_path_rate > 0
            trainable = drop_path or self.config.optimize_vision_tower_aux
            self.vision_tower_aux.train(mode and trainable)
        return self

    def get_input_embeddings(self) -> nn.Module:
        """The language model's token embedding, (vocabulary, text width)."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's token embedding."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        """The language model's head, text width to vocabulary."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the language model's head."""
        self.language_model.set_output_embeddings(new_embeddings)

    def get_decoder(self) -> nn.Module:
        """The language model without its head."""
        return self.language_model.get_decoder()

    def use_liger_kernel(self, fused_linear_cross_entropy: bool = True, **options: Any) -> None:
        """Train the language model with liger-kernel's kernels, which take a GPU.

        Args:
            fused_linear_cross_entropy: whether the loss is liger-kernel's too.
            **options: other kernels by liger-kernel's names, such as `rms_norm=False`.

        Raises:
            MGMError: liger-kernel is not installed, or there is no GPU.
        """
        apply_liger_kernel(self.language_model, options)
        if fused_linear_cross_entropy:
            self._causal_lm_loss.linear_cross_entropy = liger_linear_cross_entropy

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_values_aux: Tensor | None = None,
        image_features: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        loss_group_ids: Tensor | None = None,
        skip_logits: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Predict the next token at every position.

        Args:
            input_ids: (batch, length); image positions hold `config.image_token_id`.
            attention_mask: (batch, length), 0 on padding, which may be on either side.
            position_ids: (batch, length). Compat: when left out they count from the first column,
                padding included, as the published code does; `generate` leaves padding out.
            pixel_values: as for `get_image_features`, all images of the batch in reading order.
            pixel_values_aux: as for `get_image_features`.
            image_features: output of `get_image_features`, instead of pixels.
            labels: (batch, length), -100 where there is no loss; image positions never have one,
                whatever they hold.
            inputs_embeds: (batch, length, text width) instead of `input_ids`, images merged.
            past_key_values: cache of earlier positions.
            use_cache: whether to return a cache.
            logits_to_keep: how many of the last positions get logits; 0: all.
            loss_group_ids: (batch, length), the group of each label, such as the number of its data
                source; without logits, the output has the loss of each group
                (`mgm.model.ops.causal_lm_loss.CausalLMLossOutput`).
            skip_logits: whether the loss comes without logits; None: in training mode.
            **kwargs: arguments of the language model, such as `num_items_in_batch` for its loss.

        Returns:
            The language model's output: loss (if labels are given), logits, past_key_values.

        Raises:
            MGMError: images and image positions do not match.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise MGMError("forward got both or none of input_ids and inputs_embeds; give one")
        loss_only = self.training if skip_logits is None else skip_logits
        if input_ids is not None:
            has_pixels = pixel_values is not None or pixel_values_aux is not None
            if image_features is None and has_pixels:
                image_features = self.get_image_features(pixel_values, pixel_values_aux)
            zero_term = None
            if image_features is None and labels is not None and loss_only:
                # Before the embedding, as with images: the same order of modules in every process.
                zero_term = self._zero_image_term(input_ids.device)
            inputs_embeds = merge_image_features(
                self.get_input_embeddings(), input_ids, image_features, self.config, attention_mask
            )
            if zero_term is not None:
                inputs_embeds = inputs_embeds + zero_term.to(inputs_embeds)
        inputs: dict[str, Any] = kwargs | {
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
        }
        if labels is not None:
            labels = labels.masked_fill(labels == self.config.image_token_id, IGNORE_INDEX)
        router_loss = getattr(self.config.text_config, "output_router_logits", False)
        if router_loss and not self.training:
            inputs["output_router_logits"] = False  # MoE auxiliary loss: in training only
        if labels is not None and loss_only and not (router_loss and self.training):
            inputs["use_cache"] = False  # a training step needs no KV cache
            inputs["loss_group_ids"] = loss_group_ids
            return self._causal_lm_loss(self.language_model, labels, **inputs)
        return self.language_model(labels=labels, logits_to_keep=logits_to_keep, **inputs)
