"""Each fusion setting changes the image tokens as specified, and nothing else."""

import pytest
import torch
from torch import Tensor

from benchmarks.reference_mining import concatenated_map, published_mining
from mgm.errors import MGMError
from mgm.model.image_features import ImageFeaturesMixin
from mgm.model.loading import load_model, save_model
from mgm.model.vision.fusion.fusion_config import FusionConfig
from mgm.model.vision.image_views import blurred
from tests.model.inputs import difference
from tests.model.tiny import HD, random_images, tiny_model

LAYOUTS = {"standard": {}, "HD": HD}


@pytest.fixture(scope="module", params=LAYOUTS)
def model(request):
    return tiny_model(**LAYOUTS[request.param])


@pytest.fixture(autouse=True)
def restored(model):
    yield
    model.fusion = FusionConfig()


def features(model, **changes) -> Tensor:
    model.fusion = FusionConfig(**changes)
    with torch.no_grad():
        return model.get_image_features(**random_images(model.config, 2))


def projected(model, tokens: Tensor) -> Tensor:
    """Tokens (images, crops, N, C) after the projector."""
    cells = model.config.image_grid**2
    return model.projector(torch.cat([tokens[:, cells:], tokens[:, :cells]], 1).flatten(1, 2))


@torch.no_grad()
def parts(model) -> tuple[Tensor, list[Tensor]]:
    """Tokens and stages of the model without settings."""
    model.fusion = FusionConfig()
    images = random_images(model.config, 2)
    stages = model.high_resolution_stages(images["pixel_values_aux"])
    return model.low_resolution_tokens(images["pixel_values"]), stages


@torch.no_grad()
def test_every_setting_changes_the_tokens_and_the_default_restores_them(model) -> None:
    whole = features(model)
    side = model.config.image_size * model.config.image_grid
    for changes in (
        {"mode": "none"},
        {"mode": "pool"},
        {"mode": "one_query"},
        {"high_resolution_only": True},
        {"grey_low_resolution": True},
        {"blur_high_resolution": side},
        {"averaged_stages": (4,)},
        {"window_shift": 1},
    ):
        assert difference(features(model, **changes), whole) > 1e-4, changes
    assert torch.equal(features(model), whole)


@torch.no_grad()
def test_no_mining_adds_zero(model, monkeypatch) -> None:
    tokens, _ = parts(model)
    monkeypatch.setattr(
        ImageFeaturesMixin, "high_resolution_stages", None
    )  # the encoder does not run
    assert torch.equal(features(model, mode="none"), projected(model, tokens))


@torch.no_grad()
def test_detail_only_is_the_mined_feature(model) -> None:
    tokens, stages = parts(model)
    mined = model.mined_tokens(tokens, stages)
    assert torch.equal(features(model, high_resolution_only=True), projected(model, mined))


@torch.no_grad()
def test_grey_vit_sees_the_mean_colour(model) -> None:
    _, stages = parts(model)
    images = random_images(model.config, 2)
    grey = model.low_resolution_tokens(torch.zeros_like(images["pixel_values"]))
    expected = projected(model, grey + model.mined_tokens(grey, stages))
    assert torch.equal(features(model, grey_low_resolution=True), expected)


@torch.no_grad()
def test_only_the_high_resolution_encoder_sees_the_blur(model) -> None:
    tokens, _ = parts(model)
    images = random_images(model.config, 2)
    stages = model.high_resolution_stages(blurred(images["pixel_values_aux"], 28))
    expected = projected(model, tokens + model.mined_tokens(tokens, stages))
    assert torch.equal(features(model, blur_high_resolution=28), expected)


@torch.no_grad()
def test_averaged_stages_are_constant(model) -> None:
    tokens, stages = parts(model)
    for number in (2, 4):
        stage = stages[number - 1]
        stages[number - 1] = torch.ones_like(stage) * stage.mean((2, 3), keepdim=True)
    expected = projected(model, tokens + model.mined_tokens(tokens, stages))
    assert torch.equal(features(model, averaged_stages=(2, 4)), expected)


@torch.no_grad()
def test_shifted_windows_equal_shifted_maps(model) -> None:
    """Compared with published mining on upsampled maps that are rolled, crop by crop."""
    tokens, stages = parts(model)
    config = model.config
    grid, side = config.image_grid, config.tokens_per_side
    whole = concatenated_map(stages).roll(2 * config.window, -1)
    cells = tokens[:, : grid**2].unflatten(2, (side, side)).unflatten(1, (grid, grid))
    mined = published_mining(model.mining, cells.transpose(2, 3).flatten(1, 4), whole)
    mined = mined.unflatten(1, (grid, side, grid, side)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    if config.image_global:
        small = torch.nn.functional.interpolate(
            concatenated_map(stages), scale_factor=1 / grid, mode="bilinear"
        )
        small = small.roll(2 * config.window, -1)
        of_global = published_mining(model.mining, tokens[:, -1], small)
        mined = torch.cat([mined, of_global.unsqueeze(1)], 1)
    expected = projected(model, tokens + mined)
    assert difference(features(model, window_shift=2), expected) < 1e-4


@torch.no_grad()
def test_one_query_for_all_views(model) -> None:
    tokens, stages = parts(model)
    query = torch.randn(tokens.shape[-1], generator=torch.Generator().manual_seed(3))
    ours = features(model, mode="one_query", query=tuple(query.tolist()))
    again = model.mined_tokens(torch.randn_like(tokens), stages)  # independent of the tokens
    assert torch.allclose(ours, projected(model, tokens + again), atol=1e-5)


@torch.no_grad()
def test_mean_query(model) -> None:
    side = model.config.image_size_aux
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (2, 3, side, side), dtype=torch.uint8, generator=draw)
    low, _ = model._views(pixels)
    queries = model.mining.query(model.low_resolution_tokens(low))
    torch.testing.assert_close(model.mean_query(pixels), queries.flatten(0, 2).mean(0))


def test_set_fusion_is_not_saved(model, tmp_path) -> None:
    changed = features(model, mode="pool")
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.fusion == loaded.config.fusion == FusionConfig()
    assert torch.equal(features(loaded, mode="pool"), changed)


def test_saved_fusion(tmp_path) -> None:
    whole = tiny_model(fusion={"mode": "pool", "window_shift": 1})
    save_model(whole, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.fusion == whole.config.fusion
    images = random_images(whole.config, 2)
    with torch.no_grad():
        assert torch.equal(loaded.get_image_features(**images), whole.get_image_features(**images))
        shifted = loaded.get_image_features(**images)
    assert difference(features(loaded, mode="pool", window_shift=2), shifted) > 1e-4
    loaded.fusion = None
    assert loaded.fusion == whole.config.fusion


def test_unsupported_fusion() -> None:
    plain = tiny_model(vision_aux_config=None)
    with pytest.raises(MGMError, match="no high-resolution encoder"):
        plain.fusion = FusionConfig(mode="none")
    whole = features(plain)
    assert difference(features(plain, grey_low_resolution=True), whole) > 1e-4
    text = tiny_model()
    text.text_only = True
    with pytest.raises(MGMError, match="loaded with text_only"):
        text.fusion = FusionConfig(mode="none")
