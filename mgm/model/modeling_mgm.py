"""The model: towers see, mining and projector make tokens, a language model reads them."""

import os
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from mgm.errors import MGMError
from mgm.model.checkpoint.components import from_components
from mgm.model.checkpoint.from_pretrained import build_state_dict, finalize, resolve_checkpoint
from mgm.model.checkpoint.saved_files import replace_model
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.generation import ImageGenerationMixin
from mgm.model.image_features import ImageFeaturesMixin
from mgm.model.labels import IGNORE_INDEX
from mgm.model.multimodal_embeddings import merge_image_features
from mgm.model.ops.causal_lm_loss import CausalLMLoss
from mgm.model.ops.deepspeed_log import quiet_deepspeed
from mgm.model.ops.liger import apply_liger_kernel, liger_linear_cross_entropy
from mgm.model.quantization.bitsandbytes import FULL_PRECISION
from mgm.model.quantization.int8_linear import use_int8
from mgm.model.quantization.moe_experts import use_linear_experts
from mgm.model.vision.convnext import ConvNextTower
from mgm.model.vision.vit import KINDS, VisionTower


class MGMForConditionalGeneration(ImageFeaturesMixin, PreTrainedModel, ImageGenerationMixin):
    """Mini-Gemini: `vision_tower`, `vision_tower_aux`, `mining`, `projector`, `language_model`.

    Args:
        config: what to build.
        language_model: used instead of a fresh one of `config.text_config`.
        vision_tower: used instead of a fresh one of `config.vision_config`.
        vision_tower_aux: used instead of a fresh one of `config.vision_aux_config`.
        linear_experts: whether experts are linear layers, which can be quantised.
        int8: whether the language model's linear layers hold weights of 8 bits; for inference.
        text_only: whether all that sees images is left out; such a model takes texts alone.

    Attributes:
        dummy_image_for_text_batches: whether training batches of texts alone run the vision side
            on a black image whose gradients are zero. Where DeepSpeed or FSDP shards weights or
            gradients, every process has to run the same modules in the same order, or the others
            wait for it.
    """

    config_class = MGMConfig
    config: MGMConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities: ClassVar[list[str]] = ["image", "text"]  # ty: ignore[incompatible-attribute-override]
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = [  # ty: ignore[incompatible-attribute-override]
        *(kind.tower.__name__ for kind in KINDS),
        "ConvNextTower",
        "PatchInfoMining",
    ]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]  # ty: ignore[incompatible-attribute-override]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = False

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
        self._int8 = int8
        self._causal_lm_loss = CausalLMLoss()
        self.dummy_image_for_text_batches = False
        if text_only:
            self.vision_tower, self.projector = cast(VisionTower, nn.Module()), nn.Module()
            self.vision_tower_aux = self.mining = None
        else:
            self.build_vision(config, vision_tower, vision_tower_aux)
        self.language_model = language_model or AutoModelForCausalLM.from_config(config.text_config)
        if linear_experts or int8:
            use_linear_experts(self.language_model)
        if int8:
            use_int8(self.language_model, left_alone=FULL_PRECISION)
        self.vision_tower.requires_grad_(config.optimize_vision_tower)
        if self.vision_tower_aux is not None:
            self.vision_tower_aux.requires_grad_(config.optimize_vision_tower_aux)
        self.post_init()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *args: Any,
        config: MGMConfig | None = None,
        base: str | os.PathLike[str] | None = None,
        merge_lora: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Load a folder or a repository of the hub, in any layout, as transformers loads any model.

        Weights are read one at a time, each to its device.

        Args:
            pretrained_model_name_or_path: native, published, stage-1 or LoRA layout.
            *args: of the constructor.
            config: used instead of the folder's.
            base: the base model of a stage-1 or LoRA folder; None: the one that the folder names.
            merge_lora: whether a LoRA becomes part of the weights; False needs the extra `train`.
            **kwargs: as for transformers' method, such as dtype, device_map, quantization_config,
                revision and token; `int8=True` quantises the language model's weights to 8 bits,
                `text_only=True` leaves out the vision side.

        Raises:
            MGMError: weights are missing, left over or of another shape, where transformers would
                go on with random ones.
        """
        path = pretrained_model_name_or_path
        if path is None:
            return super().from_pretrained(None, *args, config=config, **kwargs)
        report_wanted = kwargs.pop("output_loading_info", False)
        checkpoint = resolve_checkpoint(path, config, base, merge_lora, kwargs)
        tensors = build_state_dict(cls, checkpoint, kwargs)
        loaded: Any = super().from_pretrained(
            None,
            *args,
            config=checkpoint.config,
            state_dict=tensors,
            output_loading_info=True,
            **kwargs,
        )
        model, report = loaded
        finalize(model, checkpoint, report, str(path))
        return loaded if report_wanted else model

    @classmethod
    def from_parts(
        cls,
        language_model_path: str | os.PathLike[str],
        vision_tower_path: str | os.PathLike[str],
        vision_tower_aux_path: str | os.PathLike[str] | None = None,
        dtype: torch.dtype | None = None,
        device: str | None = None,
        **overrides: Any,
    ) -> Self:
        """Assemble a model from folders of its parts; mining and projector are fresh.

        Args:
            language_model_path: a causal language model in transformers' layout.
            vision_tower_path: a CLIP or SigLIP folder in transformers' layout.
            vision_tower_aux_path: a ConvNeXt folder in OpenCLIP's or timm's layout; None: no
                mining.
            dtype: of all weights; None: float32.
            device: where they go, "meta" for shapes alone; None: the CPU.
            **overrides: fields of `MGMConfig`.

        Raises:
            MGMError: a folder is not what it should be.
        """
        return from_components(
            cls,
            language_model_path,
            vision_tower_path,
            vision_tower_aux_path,
            dtype,
            device,
            **overrides,
        )

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> None:
        """Save in the native layout, as transformers saves any model.

        Weights of whatever kind that are in the folder already are removed in the same step.

        Raises:
            MGMError: the model was loaded text-only, with quantised weights, or with a LoRA that is
                not merged; or the folder cannot be written.
        """
        for holds, how in (
            (self.text_only, "without its vision side"),
            (self.is_quantized, "with quantised weights"),
            (getattr(self, "_hf_peft_config_loaded", False), "with a LoRA that is not merged"),
        ):
            if holds:
                raise MGMError(
                    f"{save_directory}: the model was loaded {how}; load it whole to save it"
                )
        quiet_deepspeed()
        if False in (*args[:1], kwargs.get("is_main_process")):
            super().save_pretrained(save_directory, *args, **kwargs)  # which writes nothing
            return
        folder = Path(save_directory)
        if kwargs.get("push_to_hub"):
            kwargs.setdefault("repo_id", folder.name)
        with replace_model(folder, processor=False) as part:
            super().save_pretrained(part, *args, **kwargs)

    @property
    def is_quantized(self) -> bool:
        """Whether the language model's weights are in fewer bits than they were saved in."""
        return self._int8 or getattr(self, "hf_quantizer", None) is not None

    @property
    def text_layers(self) -> list[nn.Module]:
        """The language model's layers, or whatever else transformers would not split of it."""
        kinds = set(self.language_model._no_split_modules or ())
        return [part for part in self.language_model.modules() if type(part).__name__ in kinds]

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: every part was initialised when it was constructed."""

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
            pixel_values: as `get_image_features`, all images of the batch in reading order.
            pixel_values_aux: as `get_image_features`.
            image_features: what `get_image_features` returned, instead of pixels.
            labels: (batch, length), -100 where nothing is to be learnt, as at image positions
                whatever they hold.
            inputs_embeds: (batch, length, text width) instead of `input_ids`, images merged.
            past_key_values: cache of earlier positions.
            use_cache: whether to return a cache.
            logits_to_keep: how many of the last positions get logits; 0: all.
            loss_group_ids: (batch, length), the group of each label, such as the number of its data
                source; without logits, the output has the loss of each group
                (`mgm.model.ops.causal_lm_loss.CausalLMLossOutput`).
            skip_logits: whether the loss comes without logits; None: in training mode.
            **kwargs: for the language model, such as `num_items_in_batch` for its loss.

        Returns:
            The language model's output: loss (if labels are given), logits, past_key_values.

        Raises:
            MGMError: images and image positions do not match.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise MGMError("forward got both or none of input_ids and inputs_embeds; give one")
        loss_only = self.training if skip_logits is None else skip_logits
        if input_ids is not None:
            seen = pixel_values is not None or pixel_values_aux is not None
            if image_features is None and seen:
                image_features = self.get_image_features(pixel_values, pixel_values_aux)
            nothing = None
            if image_features is None and labels is not None and loss_only:
                nothing = self._zero_image_term()  # before the embedding, as with images
            inputs_embeds = merge_image_features(
                self.get_input_embeddings(), input_ids, image_features, self.config, attention_mask
            )
            if nothing is not None:
                inputs_embeds = inputs_embeds + nothing.to(inputs_embeds)
        inputs: dict[str, Any] = kwargs | {
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
        }
        if labels is not None:
            labels = labels.masked_fill(labels == self.config.image_token_id, IGNORE_INDEX)
        routed = getattr(self.config.text_config, "output_router_logits", False)
        if routed and not self.training:
            inputs["output_router_logits"] = False  # only training has a use for their loss
        if labels is not None and loss_only and not (routed and self.training):
            inputs["use_cache"] = False  # nothing continues a training step; a cache copies keys
            inputs["loss_group_ids"] = loss_group_ids
            return self._causal_lm_loss(self.language_model, labels, **inputs)
        return self.language_model(labels=labels, logits_to_keep=logits_to_keep, **inputs)

    def _zero_image_term(self) -> Tensor:
        """Zero, from which all that is trained and sees images gets a gradient, of zero.

        Optimizers pass over a parameter without a gradient, and with one of zero go on by their
        momentum. Compat: the published code computes features for texts too, and uses none of them.

        With `dummy_image_for_text_batches` it comes through all that sees images.
        """
        if self.dummy_image_for_text_batches:
            side = self.config.image_size_aux
            black = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=self.device)
            return self.get_image_features(pixel_values_aux=black).flatten()[:0].sum()
        zero = torch.zeros((), device=self.device)
        for part in (self.vision_tower, self.vision_tower_aux, self.mining, self.projector):
            for parameter in part.parameters() if part is not None else ():
                if parameter.requires_grad:
                    zero = zero + parameter.flatten()[:0].sum().to(zero)
        return zero
