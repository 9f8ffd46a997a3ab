"""Configuration of the high-resolution tower, a ConvNeXt or ConvNeXt V2."""

from typing import Any

from transformers import PretrainedConfig
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from mgm.errors import MGMError
from mgm.model.config_checks.rules import check_convnext_config


class ConvNextTowerConfig(PretrainedConfig):
    """Configuration of `ConvNextTower`, in timm's terms.

    Args:
        depths: blocks of each stage.
        dims: channels of each stage.
        layer_norm_eps: epsilon of every LayerNorm; 1e-6 except in ConvNeXt-XXLarge (1e-5).
        drop_path_rate: stochastic depth in training mode; 0 switches it off.
        hidden_act: timm's name of the activation in a block.
        kernel_sizes: kernel size of the depthwise convolutions of each stage, in positions.
        stem_type: "patch" (4 x 4 pixels, not overlapping), "overlap", "overlap_tiered" or
            "overlap_act" (two convolutions of stride 2).
        conv_mlp: whether a block's MLP consists of 1 x 1 convolutions; the result is the same.
        use_grn: whether a block's MLP has global response normalisation (ConvNeXt V2).
        ls_init_value: initial layer scale; None: no layer scale (ConvNeXt V2).
        norm_layer: timm's name of the normalisation.
        image_mean: mean of each colour channel in its images, of values from 0 to 1.
        image_std: standard deviation of each colour channel.

    Raises:
        MGMError: not one number for each of the four stages.
    """

    model_type = "mgm_convnext"
    base_config_key = "vision_aux_config"

    def __init__(
        self,
        depths: list[int] | None = None,
        dims: list[int] | None = None,
        layer_norm_eps: float = 1e-6,
        drop_path_rate: float = 0.0,
        hidden_act: str = "gelu",
        kernel_sizes: list[int] | None = None,
        stem_type: str = "patch",
        conv_mlp: bool = False,
        use_grn: bool = False,
        ls_init_value: float | None = 1e-6,
        norm_layer: str = "layernorm2d",
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.depths = list(depths or (3, 3, 27, 3))
        self.dims = list(dims or (192, 384, 768, 1536))
        self.layer_norm_eps = layer_norm_eps
        self.drop_path_rate = drop_path_rate
        self.hidden_act = hidden_act
        self.kernel_sizes = list(kernel_sizes or (7, 7, 7, 7))
        self.stem_type = stem_type
        self.conv_mlp = conv_mlp
        self.use_grn = use_grn
        self.ls_init_value = ls_init_value
        self.norm_layer = norm_layer
        self.image_mean = list(image_mean or OPENAI_CLIP_MEAN)
        self.image_std = list(image_std or OPENAI_CLIP_STD)
        super().__init__(**kwargs)
        for name in ("depths", "dims", "kernel_sizes"):
            values = getattr(self, name)
            if len(values) != 4:
                raise MGMError(f"config: {name} is {values}; valid: one number for each stage, 4")


def convnext_config_from(
    given: dict[str, Any] | PretrainedConfig | None,
) -> ConvNextTowerConfig | None:
    """The ConvNeXt's config from a dictionary; None for a model without a high-resolution tower."""
    if given is None or isinstance(given, ConvNextTowerConfig):
        return given
    values: dict[str, Any] = given if isinstance(given, dict) else given.to_dict()
    fields = {name: value for name, value in values.items() if name != "model_type"}
    check_convnext_config(fields, "vision_aux_config.")
    return ConvNextTowerConfig(**fields)
