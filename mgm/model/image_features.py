"""Image features: the vision side, from pixels to the embeddings at the image positions."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mgm.errors import MGMError
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.ops.compile import check_compiler
from mgm.model.vision.convnext import ConvNextTower
from mgm.model.vision.fusion.fusion_config import NONE, FusionConfig
from mgm.model.vision.fusion.modules import ablated_mining, build_fusion, over_crops
from mgm.model.vision.image_views import ImageViews, blurred
from mgm.model.vision.patch_info_mining import PatchInfoMining
from mgm.model.vision.projector import build_projector
from mgm.model.vision.vit import VisionTower, build_vision_tower


class ImageFeaturesMixin:
    """Vision side of a vision-language model: both towers, their fusion and projector.

    Attributes:
        config: config of the whole model.
        vision_tower: the low-resolution encoder, a ViT.
        vision_tower_aux: the high-resolution encoder, a ConvNeXt; None: a model without mining.
        mining: cross-attention from the ViT's tokens to windows of the ConvNeXt's maps, or the
            rival of it that `config.fusion.mode` names; None: a model without ConvNeXt.
        projector: projects tokens to the language model's width.
        text_only: whether the vision side was left out.
        dummy_image_for_text_batches: whether training batches of text alone run the vision side on
            a black image whose gradients are zero. Where DeepSpeed or FSDP shards weights or
            gradients, every process has to run the same modules in the same order, or the others
            wait for it.
    """

    config: MGMConfig
    vision_tower: VisionTower
    vision_tower_aux: ConvNextTower | None
    mining: nn.Module | None
    projector: nn.Module
    text_only: bool = False
    dummy_image_for_text_batches: bool = False
    _fusion: FusionConfig | None = None  # replaces the config's, if set

    def build_vision(
        self,
        config: MGMConfig,
        vision_tower: VisionTower | None = None,
        vision_tower_aux: ConvNextTower | None = None,
    ) -> None:
        """Build the parts, but for the towers that are given."""
        width = config.vision_config.hidden_size
        self.vision_tower = vision_tower or build_vision_tower(
            config.vision_config, config.vision_feature_layer
        )
        # First, so that a seed gives it the same weights whatever the fusion is.
        projector = build_projector(config.projector_type, width, config.text_config.hidden_size)
        self.vision_tower_aux = self.mining = None
        if config.vision_aux_config is not None:
            self.vision_tower_aux = vision_tower_aux or ConvNextTower(config.vision_aux_config)
            self.mining = build_fusion(config)
        self.projector = projector

    @property
    def fusion(self) -> FusionConfig:
        """How both encoders' outputs are combined into image tokens; the config's by default.

        Setting it changes the forward pass, but neither the config nor saved files. It takes a
        `FusionConfig`, a dictionary of its fields, or None for the config's.

        Raises:
            MGMError: a field is not valid, or does not fit the model.
        """
        return self._fusion or self.config.fusion

    @fusion.setter
    def fusion(self, fusion: FusionConfig | Mapping[str, Any] | None) -> None:
        if self.text_only:
            raise MGMError("the model was loaded with text_only=True; load it without")
        if fusion is not None:
            fusion = FusionConfig.from_json(fusion)
            fusion.check_inference(self.config)
        self._fusion = fusion

    def get_image_features(
        self, pixel_values: Tensor | None = None, pixel_values_aux: Tensor | None = None
    ) -> Tensor:
        """Encode images to the embeddings at the image positions of the language model's input.

        Args:
            pixel_values: (images, crops, 3, H, W), normalised; crops: the grid's cells in row-major
                order, then the global view.
            pixel_values_aux: (images, 3, HA, WA), normalised; None only for a model without mining.
                Given alone in uint8, both inputs are computed from it on the model's device.

        Returns:
            (images, image tokens, text width): tokens of the global view, then of each cell.

        Raises:
            MGMError: the shapes of the tensors do not match the config.
        """
        if self.text_only:
            raise MGMError("the model was loaded with text_only=True; load it without")
        if pixel_values is None and pixel_values_aux is not None:
            pixel_values, pixel_values_aux = self._views(pixel_values_aux)
        pixel_values = self._check_pixels(pixel_values, pixel_values_aux)
        tokens = self.low_resolution_tokens(pixel_values)  # (images, crops, N, C)
        if (
            self.mining is not None
            and pixel_values_aux is not None
            and self.fusion.uses_high_resolution
        ):
            stages = self.high_resolution_stages(pixel_values_aux)
            mined = self.mined_tokens(tokens, stages)
            tokens = mined if self.fusion.high_resolution_only else tokens + mined
        cells = self.config.image_grid**2
        tokens = torch.cat([tokens[:, cells:], tokens[:, :cells]], dim=1)
        return self.projector(tokens.flatten(1, 2))

    def compile_vision(self, **options: Any) -> None:
        """Compile both towers, mining and projector with `torch.compile`.

        Outputs and gradients differ by rounding alone, and weights keep their names. The first
        batch and the first batch of a second size compile for minutes; later sizes do not.

        Args:
            **options: options of `torch.compile`, such as `mode`.

        Raises:
            MGMError: torch.compile does not work here, or not with these options.
        """
        check_compiler(next(self.projector.parameters()).device, **options)
        for part in (self.vision_tower, self.vision_tower_aux, self.mining, self.projector):
            if part is not None:
                part.compile(**options)

    def low_resolution_tokens(self, pixel_values: Tensor) -> Tensor:
        """Run the ViT: (images, crops, 3, H, W) -> image tokens (images, crops, tokens, C)."""
        pixels = pixel_values.flatten(0, 1).to(self.vision_tower.dtype)
        if self.fusion.grey_low_resolution:
            pixels = torch.zeros_like(pixels)  # normalised, the mean colour is zero
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.optimize_vision_tower):
            tokens = self.vision_tower(pixels)
        if self.fusion.token_pooling > 1:
            tokens = mean_tokens(tokens, self.fusion.token_pooling)
        return tokens.to(self._image_dtype()).unflatten(0, pixel_values.shape[:2])

    def high_resolution_stages(self, pixel_values_aux: Tensor) -> list[Tensor]:
        """Run the ConvNeXt: images (images, 3, HA, WA) -> the maps that are used, finest first."""
        tower, _ = self._fusion_parts()
        blur_size = self.fusion.blur_high_resolution
        if blur_size is not None:
            pixel_values_aux = blurred(pixel_values_aux, blur_size)
        pixels = pixel_values_aux.to(next(tower.parameters()).dtype)
        trained = self.config.optimize_vision_tower_aux
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            stages = tower(pixels)
        for number in self.fusion.averaged_stages:
            stage = stages[number - 1]
            stages[number - 1] = stage.mean((-2, -1), keepdim=True).expand_as(stage)
        used = self.config.fusion.used_stages(len(stages))
        return [stages[number - 1].to(self._image_dtype()) for number in used]

    def mined_tokens(self, tokens: Tensor, stages: list[Tensor]) -> Tensor:
        """Patch info mining, or its rival, of all tokens: (images, crops, N, C), the same shape."""
        module, shift = self._fusion_module(tokens), self.fusion.window_shift
        return over_crops(module, tokens, stages, self.config, shift)

    @torch.no_grad()
    def mining_attention(self, pixel_values_aux: Tensor) -> Tensor:
        """Attention weights of patch info mining: of each token over its high-resolution window.

        Args:
            pixel_values_aux: in uint8, as for `get_image_features`.

        Returns:
            (images, crops, tokens of a crop, positions of a window), float32, both row-major; the
            weights over a window add up to one, and crops are in the order of `pixel_values`.

        Raises:
            MGMError: the model has no mining, or the shape does not match the config.
        """
        low, high = self._views(pixel_values_aux)
        tokens = self.low_resolution_tokens(self._check_pixels(low, high))
        attention = getattr(self._fusion_module(tokens), "attention", None)
        if attention is None or not self.fusion.uses_high_resolution:
            raise MGMError(f"fusion of mode {self.fusion.mode!r} has no attention weights")
        stages, shift = self.high_resolution_stages(high), self.fusion.window_shift
        return over_crops(attention, tokens, stages, self.config, shift).float()

    @torch.no_grad()
    def mean_query(self, pixel_values_aux: Tensor) -> Tensor:
        """Compute the mean query of patch info mining, over all tokens of all images: (C), float32.

        Args:
            pixel_values_aux: in uint8, as for `get_image_features`.

        Raises:
            MGMError: the model has no mining, or the shape does not match the config.
        """
        _, mining = self._fusion_parts()
        if not isinstance(mining, PatchInfoMining):
            raise MGMError(f"fusion of mode {self.config.fusion.mode!r} has no queries of tokens")
        low, high = self._views(pixel_values_aux)
        tokens = self.low_resolution_tokens(self._check_pixels(low, high))
        return mining.query(tokens).float().mean((0, 1, 2))

    def _zero_image_term(self, device: torch.device) -> Tensor:
        """Zero that depends on all trained vision parameters: their gradients are zero, not None.

        Optimizers skip a parameter without a gradient; with a gradient of zero they apply momentum
        and weight decay. Compat: the published code computes features for text batches too, and
        does not use them.

        With `dummy_image_for_text_batches` the vision side runs; without it only its parameters
        are used.
        """
        if self.dummy_image_for_text_batches:
            side = self.config.image_size_aux
            black = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device)
            return self.get_image_features(pixel_values_aux=black).flatten()[:0].sum()
        zero = torch.zeros((), device=device)
        for part in (self.vision_tower, self.vision_tower_aux, self.mining, self.projector):
            for parameter in part.parameters() if part is not None else ():
                if parameter.requires_grad:
                    zero = zero + parameter.flatten()[:0].sum().to(zero)
        return zero

    def _fusion_parts(self) -> tuple[ConvNextTower, nn.Module]:
        if self.vision_tower_aux is None or self.mining is None:
            raise MGMError(
                "config: vision_aux_config is null; the model has no high-resolution encoder"
            )
        return self.vision_tower_aux, self.mining

    def _fusion_module(self, tokens: Tensor) -> nn.Module:
        """The module in use: `mining`, or in an ablation of it a rival with its weights."""
        _, mining = self._fusion_parts()
        mode = self.fusion.mode
        if mode in (self.config.fusion.mode, NONE) or not isinstance(mining, PatchInfoMining):
            return mining
        return ablated_mining(mining, self.config, mode, self.fusion.query, tokens)

    def _image_dtype(self) -> torch.dtype:
        parameter = next((self.mining or self.projector).parameters(), None)
        return self.vision_tower.dtype if parameter is None else parameter.dtype

    def _views(self, pixels: Tensor) -> tuple[Tensor | None, Tensor]:
        """Compute both towers' inputs from `pixel_values_aux` in uint8; else return None and it."""
        if pixels.dtype != torch.uint8:
            return None, pixels
        side = self.config.image_size_aux
        _check_shape("pixel_values_aux", pixels, (len(pixels), 3, side, side))
        views = ImageViews.of(self.config)
        high = views.normalise(pixels)
        return views.low_resolution(high), high

    def _check_pixels(self, pixel_values: Tensor | None, pixel_values_aux: Tensor | None) -> Tensor:
        """`pixel_values`, after both inputs' shapes and dtypes were checked."""
        config, size = self.config, self.config.image_size
        present = pixel_values_aux if pixel_values is None else pixel_values
        images = 0 if present is None else len(present)
        pixel_values = _check_shape(
            "pixel_values", pixel_values, (images, config.crops, 3, size, size)
        )
        if self.mining is not None:
            side = config.image_size_aux
            _check_shape("pixel_values_aux", pixel_values_aux, (images, 3, side, side))
        for name, pixels in (
            ("pixel_values", pixel_values),
            ("pixel_values_aux", pixel_values_aux),
        ):
            if pixels is not None and not pixels.is_floating_point():
                raise MGMError(
                    f"{name} is {pixels.dtype}; give normalised pixels in floating point, or "
                    "pixel_values_aux alone in uint8"
                )
        return pixel_values


def mean_tokens(tokens: Tensor, side: int) -> Tensor:
    """Means (B, N / side^2, C) of side x side tokens each, of a square grid (B, N, C)."""
    grid = math.isqrt(tokens.shape[1]) // side
    blocks = tokens.unflatten(1, (grid, side, grid, side))
    return blocks.mean((2, 4)).flatten(1, 2)


def _check_shape(name: str, pixels: Tensor | None, expected: tuple[int, ...]) -> Tensor:
    if pixels is None or tuple(pixels.shape) != expected:
        given = "missing" if pixels is None else f"of shape {tuple(pixels.shape)}"
        raise MGMError(f"{name} is {given}; expected {expected}")
    return pixels
