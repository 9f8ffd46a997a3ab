"""Every arm: built from its config alone, saved, loaded, and its tokens against a short form."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.reference_mining import concatenated_map, published_mining
from mgm.errors import MGMError
from mgm.model.checkpoint.conversion import plan_conversion
from mgm.model.loading import load_model, save_model
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.quantization.bitsandbytes import FULL_PRECISION
from mgm.model.vision.fusion.modules import FUSION_MODES
from tests.model.fusion_arms import ARMS
from tests.model.inputs import difference
from tests.model.tiny import HD, batch_of, random_images, tiny_config, tiny_model

LAYOUTS = {"standard": {}, "HD": HD}


def test_every_mode_is_an_arm() -> None:
    assert {arm.get("mode", "mining") for arm in ARMS.values()} == set(FUSION_MODES)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("arm", ARMS)
def test_a_saved_model_computes_the_same(arm: str, layout: str, tmp_path) -> None:
    model = tiny_model(fusion=ARMS[arm], **LAYOUTS[layout])
    images = random_images(model.config, 2)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config.fusion == model.config.fusion == loaded.fusion
    assert loaded.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        features = model.get_image_features(**images)
        assert torch.equal(loaded.get_image_features(**images), features)
    assert features.shape == (2, model.config.image_tokens_per_image, 24)
    pooling = ARMS[arm].get("token_pooling", 1)
    assert features.shape[1] == model.config.crops * (4 // pooling) ** 2
    assert (model.vision_tower_aux is None) == (ARMS[arm].get("mode") == "none")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("arm", ARMS)
@torch.no_grad()
def test_tokens_depend_on_the_images_that_the_arm_uses(arm: str, layout: str) -> None:
    model = tiny_model(fusion=ARMS[arm], **LAYOUTS[layout])
    fusion, images = model.config.fusion, random_images(model.config, 1)
    other = random_images(model.config, 1, seed=2)
    features = model.get_image_features(**images)
    for name, used in (
        ("pixel_values", fusion.uses_low_resolution),
        ("pixel_values_aux", fusion.uses_high_resolution),
    ):
        if name in images:
            changed = model.get_image_features(**(images | {name: other[name]}))
            moved = (changed - features).abs().amax(-1)[0]
            assert bool((moved > 1e-5).all()) == used, name
            assert used or torch.equal(changed, features)


@pytest.mark.parametrize("arm", [arm for arm in ARMS if ARMS[arm]])
def test_only_mining_is_in_the_published_layout(arm: str, tmp_path) -> None:
    save_model(tiny_model(fusion=ARMS[arm]), tmp_path)
    with pytest.raises(MGMError, match=r"config.json: fusion is \{.*patch info mining only"):
        plan_conversion(tmp_path, "published")


@pytest.mark.parametrize("arm", ARMS)
def test_training_reaches_every_parameter(arm: str) -> None:
    trained = {"optimize_vision_tower_aux": ARMS[arm].get("mode") != "none"}
    model = tiny_model(fusion=ARMS[arm], **trained).train()
    model.gradient_checkpointing_enable()
    batch = batch_of(model.config, ["abIc", "Iab"])
    images = random_images(model.config, 2)
    labels = batch["input_ids"].masked_fill(batch["input_ids"] >= 40, -100)
    model(**batch, **images, labels=labels).loss.backward()
    for part in (model.mining, model.projector):
        for name, parameter in part.named_parameters() if part is not None else ():
            assert parameter.grad is not None, name
    texts = batch_of(model.config, ["abc", "ab"])
    model.zero_grad()
    for dummy_image in (False, True):  # with and without a run of the vision side
        model.dummy_image_for_text_batches = dummy_image
        model(**texts, labels=texts["input_ids"]).loss.backward()
        fused = () if model.mining is None else model.mining.parameters()
        assert all(not parameter.grad.any() for parameter in fused)


@pytest.mark.parametrize("arm", ARMS)
@torch.no_grad()
def test_in_bfloat16(arm: str) -> None:
    model = tiny_model(fusion=ARMS[arm])
    images = random_images(model.config, 2)
    exact = model.get_image_features(**images)
    half = model.bfloat16().get_image_features(**images)
    assert half.dtype == torch.bfloat16
    assert difference(half, exact) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("mode", FUSION_MODES)
def test_compiled(mode: str) -> None:
    model = tiny_model(fusion={"mode": mode, "token_pooling": 2})
    images = random_images(model.config, 2)
    names = list(model.state_dict())

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        model.zero_grad()
        features = model.get_image_features(**images)
        features.square().sum().backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        return features.detach(), {n: g.clone() for n, g in gradients.items()}

    plain, slopes = run()
    model.compile_vision(backend="aot_eager")
    features, again = run()
    assert difference(features, plain) < 1e-6
    assert again.keys() == slopes.keys()
    for name, slope in slopes.items():
        if name not in ("mining.key.bias", "mining.key.norm.bias"):  # zero but for rounding
            assert difference(again[name], slope) < 1e-5, name
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_pooled_tokens_mine_like_the_published_form_on_the_pooled_grid(layout: str) -> None:
    model = tiny_model(fusion={"token_pooling": 2}, **LAYOUTS[layout])
    config = model.config
    images = random_images(config, 2)
    low, grid, side = images["pixel_values"], config.image_grid, config.tokens_per_side
    patches = model.vision_tower(low.flatten(0, 1)).transpose(1, 2).unflatten(2, (4, 4))
    pooled = F.avg_pool2d(patches, 2).flatten(2).transpose(1, 2).unflatten(0, low.shape[:2])
    tokens = model.low_resolution_tokens(low)
    torch.testing.assert_close(tokens, pooled)
    full = concatenated_map(model.high_resolution_stages(images["pixel_values_aux"]))
    cells = tokens[:, : grid**2].unflatten(2, (side, side)).unflatten(1, (grid, grid))
    mined = published_mining(model.mining, cells.transpose(2, 3).flatten(1, 4), full)
    mined = mined.unflatten(1, (grid, side, grid, side)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    if config.image_global:
        small = F.interpolate(full, scale_factor=1 / grid, mode="bilinear")
        last = published_mining(model.mining, tokens[:, -1], small)
        mined = torch.cat([mined, last.unsqueeze(1)], 1)
    fused = tokens + mined
    ordered = torch.cat([fused[:, grid**2 :], fused[:, : grid**2]], 1).flatten(1, 2)
    assert difference(model.get_image_features(**images), model.projector(ordered)) < 1e-4


@torch.no_grad()
def test_fewer_stages_mine_in_a_map_of_those_stages() -> None:
    model = tiny_model(fusion={"stages": (2, 4)})
    images = random_images(model.config, 2)
    stages = model.vision_tower_aux(images["pixel_values_aux"])
    tokens = model.low_resolution_tokens(images["pixel_values"])
    full = concatenated_map([stages[1], stages[3]])
    expected = tokens + published_mining(model.mining, tokens[:, 0], full).unsqueeze(1)
    assert model.mining.key.weight.shape == (16, 8 + 16)
    features = model.get_image_features(**images)
    assert difference(features, model.projector(expected.flatten(1, 2))) < 1e-4


@pytest.mark.parametrize("arm", ["concatenation", "gate", "low resolution alone"])
def test_without_attention_there_is_none_to_show(arm: str) -> None:
    model = tiny_model(fusion=ARMS[arm])
    pixels = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
    with pytest.raises(MGMError, match=r"has no attention weights|no high-resolution encoder"):
        model.mining_attention(pixels)
    with pytest.raises(MGMError, match=r"has no queries of tokens|no high-resolution encoder"):
        model.mean_query(pixels)


def test_what_arms_share_starts_alike() -> None:
    """A seed gives the projector, and projections that mining has too, the same weights."""
    starts = {}
    for arm in ("mining", "mean of the window", "one query", "gate", "concatenation"):
        torch.manual_seed(0)
        state = MGMForConditionalGeneration(tiny_config(fusion=ARMS[arm])).state_dict()
        starts[arm] = {n: v for n, v in state.items() if n.startswith(("mining.", "projector."))}
    mining = starts.pop("mining")
    for arm, start in starts.items():
        shared = start.keys() & mining.keys()
        parts = {".".join(name.split(".")[:2]) for name in shared if name.startswith("mining.")}
        assert parts == {
            "mean of the window": {"mining.value"},
            "one query": {"mining.key", "mining.value"},
        }.get(arm, set())
        assert {name for name in mining if name.startswith("projector.")} <= shared
        assert all(torch.equal(start[name], mining[name]) for name in shared), arm


def test_quantisation_leaves_fusion_as_it_is() -> None:
    for arm in ARMS:
        names = {name.split(".")[0] for name in tiny_model(fusion=ARMS[arm]).state_dict()}
        assert names - {"language_model"} <= set(FULL_PRECISION)
