"""`MGMPreTrainedModel`: transformers' `from_pretrained` and `save_pretrained` for every layout."""

import os
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn
from transformers import PreTrainedModel

from mgm.errors import MGMError
from mgm.model.checkpoint.components import from_components
from mgm.model.checkpoint.from_pretrained import build_state_dict, finalize, resolve_checkpoint
from mgm.model.checkpoint.saved_files import replace_model
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.ops.deepspeed_log import quiet_deepspeed
from mgm.model.vision.fusion.modules import RIVALS
from mgm.model.vision.vit import TOWER_KINDS


class MGMPreTrainedModel(PreTrainedModel):
    """Base class: loading, saving, and transformers' attributes for features that are supported.

    Attributes:
        language_model: a causal language model of transformers.
        text_only: whether the model was built without its vision side.
        has_int8_weights: whether the language model's linear layers are `Int8Linear`.
    """

    config_class = MGMConfig
    config: MGMConfig
    language_model: PreTrainedModel
    text_only: bool
    has_int8_weights: bool
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities: ClassVar[list[str]] = [  # ty: ignore[incompatible-attribute-override]
        "image",
        "text",
    ]
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = [  # ty: ignore[incompatible-attribute-override]
        *(kind.tower.__name__ for kind in TOWER_KINDS),
        "ConvNextTower",
        "PatchInfoMining",
        *(rival.__name__ for rival in RIVALS.values()),
    ]
    _skip_keys_device_placement: ClassVar[list[str]] = [  # ty: ignore[incompatible-attribute-override]
        "past_key_values"
    ]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = False

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: every part was initialised when it was constructed."""

    @property
    def text_layers(self) -> list[nn.Module]:
        """Transformer layers of the language model: modules that a device map must not split."""
        names = set(self.language_model._no_split_modules or ())
        return [part for part in self.language_model.modules() if type(part).__name__ in names]

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
            *args: arguments of the constructor.
            config: used instead of the folder's.
            base: the base model of a stage-1 or LoRA folder; None: the one that the folder names.
            merge_lora: whether a LoRA is merged into the weights; False needs the extra `train`.
            **kwargs: as for transformers' method, such as dtype, device_map, quantization_config,
                revision and token; `int8=True` quantises the language model's weights to 8 bits,
                `text_only=True` leaves out the vision side.

        Raises:
            MGMError: weights are missing, unexpected or of another shape, where transformers would
                continue with random ones.
        """
        path = pretrained_model_name_or_path
        if path is None:
            return super().from_pretrained(None, *args, config=config, **kwargs)
        output_loading_info = kwargs.pop("output_loading_info", False)
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
        model, loading_info = loaded
        finalize(model, checkpoint, loading_info, str(path))
        return loaded if output_loading_info else model

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
            dtype: dtype of all weights; None: float32.
            device: device of the weights, "meta" for shapes alone; None: the CPU.
            **overrides: fields of `MGMConfig`.

        Raises:
            MGMError: a folder does not hold a model of this kind.
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

        Weight files of any kind that are in the folder already are removed in the same step.

        Raises:
            MGMError: the model was loaded text-only, with quantised weights, or with a LoRA that is
                not merged; or the folder cannot be written.
        """
        # Quantisers and peft set these two attributes of transformers' on the model.
        quantized = self.has_int8_weights or getattr(self, "is_quantized", False)
        for incomplete, how in (
            (self.text_only, "without its vision side"),
            (quantized, "with quantised weights"),
            (getattr(self, "_hf_peft_config_loaded", False), "with a LoRA that is not merged"),
        ):
            if incomplete:
                raise MGMError(
                    f"{save_directory}: the model was loaded {how}; load it whole to save it"
                )
        quiet_deepspeed()
        if False in (*args[:1], kwargs.get("is_main_process")):
            super().save_pretrained(save_directory, *args, **kwargs)  # writes nothing here
            return
        folder = Path(save_directory)
        if kwargs.get("push_to_hub"):
            kwargs.setdefault("repo_id", folder.name)
        with replace_model(folder, processor=False) as new_folder:
            super().save_pretrained(new_folder, *args, **kwargs)
