"""`MGMConfig`: configuration of both vision towers, mining, projector and language model."""

import os
from pathlib import Path
from typing import Any, ClassVar, Self

from transformers import PretrainedConfig

from mgm.errors import MGMError
from mgm.model.config_checks.mgm_config import STEM_STRIDE, check_mgm_config, require
from mgm.model.config_checks.rules import COMMON_RULES, check_field_names
from mgm.model.files.json_fields import check_fields
from mgm.model.files.json_file import config_errors, is_present, read_json
from mgm.model.published_layout.config_fields import (
    is_published_config,
    published_field_names,
    translate_config,
)
from mgm.model.text_config import text_config_from
from mgm.model.vision.convnext_config import ConvNextTowerConfig, convnext_config_from
from mgm.model.vision.fusion.fusion_config import NONE, FusionConfig
from mgm.model.vision.fusion.fusion_sizes import FusionSizes
from mgm.model.vision.vit import tower_kind, vision_config_from

CLIP_LARGE_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}


class MGMConfig(PretrainedConfig):
    """Configuration of `MGMForConditionalGeneration`; published flat ones load as one too.

    Args:
        text_config: the language model's config, or its dictionary with a `model_type`.
        vision_config: the low-resolution tower, or its dictionary with a `model_type`, without one
            CLIP's.
        vision_aux_config: the high-resolution tower; None: a model without it and without mining,
            as with `fusion` of mode "none".
        vision_feature_layer: index into the ViT's hidden states, of which the embeddings are the
            first: -2 is the output of the second-to-last layer.
        vision_feature_select: "patch": all tokens but the class token.
        projector_type: "linear", "mlpNx_gelu" or "identity".
        image_size_aux: high-resolution pixels per side.
        image_grid: crops per side for the low-resolution tower (HD: 2).
        image_global: whether it also gets the whole image as one more crop (HD).
        image_aspect_ratio: preprocessing, "pad" (to a square) or "square" (resize and crop).
        image_token_id: the id of image positions; the default is the first id after the
            vocabulary, so that no text tokenizes to it. It is never embedded.
        conversation: name of the conversation template; None: the tokenizer's family decides.
        model_max_length: maximum tokens of a sample, image tokens included; None: unlimited.
        optimize_vision_tower: whether the low-resolution tower is trained.
        optimize_vision_tower_aux: whether the high-resolution tower is trained.
        fusion: how the towers' outputs are combined into image tokens, or its dictionary; None:
            patch info mining. Only other settings are saved.

    Raises:
        MGMError: a value is not valid; names the field, the value and what is valid.
    """

    model_type = "mgm"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "group_losses"]
    sub_configs: ClassVar[dict[str, type[PretrainedConfig]]] = {
        "text_config": PretrainedConfig,
        "vision_config": PretrainedConfig,
        "vision_aux_config": ConvNextTowerConfig,
    }

    def __init__(
        self,
        text_config: dict[str, Any] | PretrainedConfig | None = None,
        vision_config: dict[str, Any] | PretrainedConfig | None = None,
        vision_aux_config: dict[str, Any] | PretrainedConfig | None = None,
        vision_feature_layer: int = -2,
        vision_feature_select: str = "patch",
        projector_type: str = "mlp2x_gelu",
        image_size_aux: int = 768,
        image_grid: int = 1,
        image_global: bool = False,
        image_aspect_ratio: str = "pad",
        image_token_id: int | None = None,
        conversation: str | None = None,
        model_max_length: int | None = None,
        optimize_vision_tower: bool = False,
        optimize_vision_tower_aux: bool = False,
        fusion: FusionConfig | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.text_config = text_config_from(text_config)
        self.vision_config = vision_config_from(vision_config or CLIP_LARGE_336)
        self.fusion = FusionConfig.from_json(fusion)
        self.vision_aux_config = (
            None if self.fusion.mode == NONE else convnext_config_from(vision_aux_config)
        )
        self.vision_feature_layer = vision_feature_layer
        self.vision_feature_select = vision_feature_select
        self.projector_type = projector_type
        self.image_size_aux = image_size_aux
        self.image_grid = image_grid
        self.image_global = image_global
        self.image_aspect_ratio = image_aspect_ratio
        self.image_token_id = (
            self.text_config.vocab_size if image_token_id is None else image_token_id
        )
        self.conversation = conversation
        self.model_max_length = model_max_length
        self.optimize_vision_tower = optimize_vision_tower
        self.optimize_vision_tower_aux = optimize_vision_tower_aux
        kwargs.setdefault("tie_word_embeddings", False)  # the language model ties its own, or not
        super().__init__(**kwargs)
        self.check()

    @property
    def image_size(self) -> int:
        """Pixels per side of a crop, the low-resolution tower's input."""
        return int(self.vision_config.image_size)

    @property
    def tokens_per_side(self) -> int:
        """Image tokens per side of one crop."""
        return self.image_size // self.pixels_per_token

    @property
    def pixels_per_token(self) -> int:
        """Pixels of a crop per side of an image token: a patch, or several that are pooled."""
        return int(self.vision_config.patch_size) * self.fusion.token_pooling

    @property
    def crops(self) -> int:
        """Low-resolution crops per image: the grid's cells, and the global view last."""
        return self.image_grid**2 + int(self.image_global)

    @property
    def image_tokens_per_image(self) -> int:
        """Image tokens of one image in the language model's input."""
        return self.tokens_per_side**2 * self.crops

    @property
    def window(self) -> int:
        """Positions per side of the high-resolution window that a token attends to."""
        return self.fusion_sizes.stage_windows[0]

    @property
    def fusion_sizes(self) -> FusionSizes:
        """Widths and windows of the fusion module.

        Raises:
            ValueError: the model has no high-resolution tower.
        """
        if self.vision_aux_config is None:
            raise ValueError("vision_aux_config is None; a fusion needs a high-resolution tower")
        dims = self.vision_aux_config.dims
        stages = self.fusion.used_stages(len(dims))
        side = self.tokens_per_side * self.image_grid
        return FusionSizes(
            width=self.vision_config.hidden_size,
            stage_widths=tuple(dims[number - 1] for number in stages),
            stage_windows=tuple(
                max(1, self.image_size_aux // (STEM_STRIDE * 2 ** (number - 1)) // side)
                for number in stages
            ),
        )

    @property
    def image_mean(self) -> list[float]:
        """Mean of each colour channel, from 0 to 1, for the low-resolution tower's input."""
        return self._normalisation("image_mean")

    @property
    def image_std(self) -> list[float]:
        """Standard deviation of each colour channel for the low-resolution tower's input."""
        return self._normalisation("image_std")

    @property
    def image_mean_aux(self) -> list[float]:
        """Mean of each colour channel for the high-resolution tower's input."""
        aux = self.vision_aux_config
        return self.image_mean if aux is None else aux.image_mean

    @property
    def image_std_aux(self) -> list[float]:
        """Standard deviation of each colour channel for the high-resolution tower's input."""
        aux = self.vision_aux_config
        return self.image_std if aux is None else aux.image_std

    def _normalisation(self, name: str) -> list[float]:
        kind = tower_kind(self.vision_config.model_type)
        return list(getattr(self.vision_config, name, None) or getattr(kind, name))

    def check(self) -> None:
        """Raise an MGMError if a field is not valid or the parts do not fit together."""
        check_mgm_config(self)

    def to_dict(self) -> dict[str, Any]:
        """All fields for config.json; `fusion` only where it is not the default."""
        values = super().to_dict()
        values.pop("fusion", None)
        changed = self.fusion.to_json()
        return values | {"fusion": changed} if changed else values

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """Build from a native dictionary or from a published flat one, which is translated.

        Raises:
            MGMError: the dictionary is not a valid Mini-Gemini config; names its config.json.
        """
        folder = kwargs.get("name_or_path")
        with config_errors(Path(folder or "") / "config.json"):
            check_fields(config_dict, COMMON_RULES, "config")
            check_field_names(config_dict)
            if is_published_config(config_dict):
                with published_field_names():
                    values = translate_config(config_dict, folder)
                    return super().from_dict(values, **kwargs)
            if "text_config" not in config_dict:
                raise MGMError(
                    "config: has neither text_config (native layout) nor hidden_size (published "
                    "layout); restore the file"
                )
            for name in ("text_config", "vision_config"):
                # Defaults would build a model of 7B.
                part = config_dict.get(name) or None
                require(isinstance(part, dict), name, part, "an object, the part's own config")
            return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_pretrained(  # ty: ignore[incompatible-method-override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> Self:
        """Read `config.json` of a folder, native or published.

        Raises:
            MGMError: the file cannot be read, or is not a valid Mini-Gemini config.
        """
        file = Path(pretrained_model_name_or_path) / "config.json"
        if is_present(file):
            read_json(file)  # transformers' error for a broken file does not name it
        kwargs.setdefault("name_or_path", str(pretrained_model_name_or_path))
        config_dict, kwargs = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
        return cls.from_dict(config_dict, **kwargs)
