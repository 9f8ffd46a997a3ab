import json
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from timm.models.convnext import ConvNeXt
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from mgm.errors import MGMError
from mgm.model.files.hub import part_folder
from mgm.model.vision.convnext import ConvNextTower, load_convnext_tower
from mgm.model.vision.convnext_config import ConvNextTowerConfig
from mgm.model.vision.convnext_shapes import convnext_geometry
from mgm.model.vision.vit import ClipTower, load_vision_tower
from tests.golden_files import golden
from tests.model.inputs import difference
from tests.model.tiny import VISION

OPENCLIP = {"model_cfg": {"vision_cfg": {"timm_model_name": "convnext_large_d_320"}}}


@pytest.fixture
def clip() -> CLIPVisionModel:
    torch.manual_seed(0)
    return CLIPVisionModel(CLIPVisionConfig(**VISION)).eval()


def write_clip(model: CLIPVisionModel, folder, prefix: str, extra: dict | None = None) -> None:
    weights = {prefix + name: value.clone() for name, value in model.state_dict().items()}
    save_file(weights | (extra or {}), folder / "model.safetensors")
    config = {"model_type": "clip_vision_model", **VISION}
    if extra:
        config = {"model_type": "clip", "vision_config": config}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("layer", [-2, -1, 1, 0])
@pytest.mark.parametrize("prefix", ["", "vision_model."])
@torch.no_grad()
def test_clip_hidden_state(clip, tmp_path, prefix: str, layer: int) -> None:
    write_clip(clip, tmp_path, prefix)
    tower = load_vision_tower(tmp_path, feature_layer=layer)
    pixels = torch.randn(2, 3, 28, 28)
    expected = clip(pixels, output_hidden_states=True).hidden_states[layer][:, 1:]
    assert difference(tower(pixels), expected) < 1e-6


def test_clip_from_the_whole_model(clip, tmp_path) -> None:
    extra = {"text_model.final_layer_norm.bias": torch.zeros(3), "logit_scale": torch.zeros(())}
    write_clip(clip, tmp_path, "vision_model.", extra)
    assert load_vision_tower(tmp_path).config.hidden_size == 16


def test_clip_skips_unused_layers(clip) -> None:
    tower = ClipTower(clip.config, -2)
    tower.encoder.layers[-1] = None
    assert tower(torch.randn(1, 3, 28, 28)).shape == (1, 16, 16)


def test_missing_clip_weights(clip, tmp_path) -> None:
    write_clip(clip, tmp_path, "", {"text_model.x": torch.zeros(1), "surplus": torch.zeros(1)})
    with pytest.raises(MGMError, match="1 unexpected \\(surplus\\)"):
        load_vision_tower(tmp_path)


def test_unsupported_vision_transformer(tmp_path) -> None:
    with pytest.raises(MGMError, match=r"config.json: not found"):
        load_vision_tower(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(MGMError, match="model_type is 'llama'; valid: clip_vision_model, siglip"):
        load_vision_tower(tmp_path)


@pytest.fixture
def siglip() -> SiglipVisionModel:
    torch.manual_seed(0)
    return SiglipVisionModel(SiglipVisionConfig(**VISION)).eval()


@pytest.mark.parametrize("layer", [-2, -1, 1, 0])
@torch.no_grad()
def test_siglip_hidden_state(siglip, tmp_path, layer: int) -> None:
    siglip.save_pretrained(tmp_path)
    tower = load_vision_tower(tmp_path, feature_layer=layer)
    assert not any(name.startswith("head.") for name in tower.state_dict())
    pixels = torch.randn(2, 3, 28, 28)
    expected = siglip(pixels, output_hidden_states=True).hidden_states[layer]
    assert expected.shape[1] == 16  # without the class token
    assert difference(tower(pixels), expected) < 1e-6


def test_siglip_from_the_whole_model(tmp_path) -> None:
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 9}
    config = SiglipConfig(vision_config=VISION, text_config=text | {"num_attention_heads": 2})
    whole = SiglipModel(config)
    whole.save_pretrained(tmp_path)
    tower = load_vision_tower(tmp_path, dtype=torch.bfloat16)
    assert tower.dtype == torch.bfloat16
    weight = whole.vision_model.embeddings.patch_embedding.weight.bfloat16()
    assert torch.equal(tower.get_submodule("embeddings.patch_embedding").weight, weight)


def test_siglip_without_a_fixed_grid(tmp_path) -> None:
    sizes = {name: VISION[name] for name in VISION if name not in ("image_size", "projection_dim")}
    Siglip2VisionModel(Siglip2VisionConfig(**sizes, num_patches=16)).save_pretrained(tmp_path)
    with pytest.raises(MGMError) as fault:
        load_vision_tower(tmp_path)
    assert str(fault.value) == (
        f"{tmp_path}/config.json: vision_config.model_type is 'siglip2_vision_model'; valid: "
        "clip_vision_model, siglip_vision_model (of SigLIP 2 those of a fixed resolution, which "
        "are siglip_vision_model; NaFlex has no fixed grid of tokens)"
    )


def test_normalisation_of_a_tower_folder(clip, tmp_path) -> None:
    write_clip(clip, tmp_path, "")
    assert not hasattr(load_vision_tower(tmp_path).config, "image_mean")
    CLIPImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.5] * 3).save_pretrained(tmp_path)
    config = load_vision_tower(tmp_path).config
    assert (config.image_mean, config.image_std) == ([0.1, 0.2, 0.3], [0.5] * 3)


@torch.no_grad()
def test_convnext_stages_equal_timm() -> None:
    torch.manual_seed(0)
    config = ConvNextTowerConfig(depths=[1, 2, 1, 1], dims=[4, 8, 12, 16])
    tower = ConvNextTower(config).eval()
    network = ConvNeXt(depths=(1, 2, 1, 1), dims=(4, 8, 12, 16), num_classes=0).eval()
    network.load_state_dict(tower.state_dict(), strict=False)
    pixels = torch.randn(1, 3, 64, 64)
    stages = tower(pixels)
    assert [tuple(stage.shape[1:]) for stage in stages] == [
        (4, 16, 16),
        (8, 8, 8),
        (12, 4, 4),
        (16, 2, 2),
    ]
    for ours, theirs in zip(stages, network.forward_intermediates(pixels)[1], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_convnext_from_an_openclip_folder(tmp_path, name: str) -> None:
    config = ConvNextTowerConfig(depths=[1, 2, 3, 1], dims=[4, 8, 12, 16])
    tower = ConvNextTower(config)
    weights = {f"visual.trunk.{key}": value.clone() for key, value in tower.state_dict().items()}
    weights |= {"visual.head.mlp.fc1.weight": torch.zeros(2), "text.ln_final.bias": torch.zeros(2)}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(OPENCLIP))
    if name.endswith("bin"):
        torch.save(weights, tmp_path / name)
    else:
        save_file(weights, tmp_path / name)
    loaded = load_convnext_tower(tmp_path)
    assert loaded.config.depths == [1, 2, 3, 1]
    assert all(
        torch.equal(value, tower.state_dict()[key]) for key, value in loaded.state_dict().items()
    )


# A V2, MLPs by convolutions, every other stem, norm, activation and kernel.
ARCHITECTURES = [
    "convnextv2_atto",
    "convnextv2_tiny",
    "convnext_nano_ols",
    "convnext_atto_ols",
    "convnext_zepto_rms_ols",
    "convnext_atto_rms",
    "convnext_tiny_hnf",
    "test_convnext3",
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_convnext_from_a_timm_folder(tmp_path, architecture: str) -> None:
    torch.manual_seed(0)
    shape = {"depths": (1, 2, 1, 1), "dims": (8, 12, 16, 20)}
    network = timm.create_model(architecture, **shape).eval()
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    save_for_hf(network, tmp_path, safe_serialization=True)
    tower = load_convnext_tower(tmp_path)
    again = ConvNextTower(ConvNextTowerConfig(**tower.config.to_dict()))  # the config has all of it
    again.load_state_dict(tower.state_dict())
    pixels = torch.randn(1, 3, 64, 64)
    expected = network.forward_intermediates(pixels, intermediates_only=True)
    for stages in (tower.eval()(pixels), again.eval()(pixels)):
        for ours, theirs in zip(stages, expected, strict=True):
            assert torch.equal(ours, theirs)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert tower.config.image_mean == settings["pretrained_cfg"]["mean"]


def test_convnext_folder_with_two_layouts(tmp_path) -> None:
    network = timm.create_model("convnext_tiny", depths=(1, 1, 1, 1), dims=(4, 8, 12, 16))
    save_for_hf(network, tmp_path, safe_serialization=True)
    preprocess = {"preprocess_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(OPENCLIP | preprocess))
    tower = load_convnext_tower(tmp_path)
    assert torch.equal(tower.stem[0].weight, network.stem[0].weight)
    assert (tower.config.image_mean, tower.config.image_std) == ([0.1] * 3, [0.2] * 3)


def test_stem_of_another_stride(tmp_path) -> None:
    network = timm.create_model("convnext_tiny", depths=(1, 1, 1, 1), patch_size=2)
    save_for_hf(network, tmp_path, safe_serialization=True)
    with pytest.raises(MGMError, match=r"stem.0.weight has a kernel of 2 pixels; expected 4"):
        load_convnext_tower(tmp_path)


def test_epsilon_of_the_largest_convnext() -> None:
    def shapes(dims: list[int]) -> dict[str, tuple[int, ...]]:
        return {f"stages.{n}.blocks.0.conv_dw.weight": (dim, 1, 7, 7) for n, dim in enumerate(dims)}

    assert convnext_geometry(shapes([384, 768, 1536, 3072]), "x")["layer_norm_eps"] == 1e-5
    assert convnext_geometry(shapes([192, 384, 768, 1536]), "x")["layer_norm_eps"] == 1e-6
    with pytest.raises(MGMError, match="x: has no four-stage ConvNeXt"):
        convnext_geometry(shapes([192, 384, 768]), "x")


def test_incomplete_block_counts() -> None:
    """So that its missing weights are reported, instead of building a shallower network."""
    shapes = {f"stages.{n}.blocks.0.conv_dw.weight": (8, 1, 7, 7) for n in range(4)}
    shapes["stages.2.blocks.1.gamma"] = (8,)
    assert convnext_geometry(shapes, "x")["depths"] == [1, 1, 2, 1]


def test_unsupported_convnext(tmp_path) -> None:
    with pytest.raises(MGMError, match=r"open_clip_config.json: not found"):
        load_convnext_tower(tmp_path)
    other = {"model_cfg": {"vision_cfg": {"timm_model_name": "vit_base"}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(other))
    with pytest.raises(MGMError, match="timm_model_name is 'vit_base'; give a folder with a Conv"):
        load_convnext_tower(tmp_path)


def test_unsupported_timm_model(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_base_patch16_224"}))
    with pytest.raises(MGMError) as fault:
        load_convnext_tower(tmp_path)
    message = str(fault.value)
    assert message.startswith(f"{tmp_path}/config.json: architecture is 'vit_base_patch16_224'; ")
    assert "convnextv2_atto" in message
    assert "\n" not in message


def test_published_tower_folders() -> None:
    zoo = golden("model_zoo/OpenAI")
    clip = load_vision_tower(zoo / "clip-vit-large-patch14-336")
    assert clip.config.num_attention_heads == 2
    (folder,) = zoo.glob("openclip-*")
    assert load_convnext_tower(folder).config.dims == [8, 16, 24, 32]


def tower_fault(load, path, content: str) -> str:
    path.write_text(content)
    with pytest.raises(MGMError) as fault:
        load(path.parent)
    assert str(fault.value).startswith(f"{path}: ")
    assert "\n" not in str(fault.value)
    return str(fault.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{bad", "is not valid JSON"),
        ("[]", "contains a list, not an object"),
        ({"vision_config": "none"}, "is not a valid model config"),
        ({"model_type": "clip_vision_model", **VISION, "num_attention_heads": 7}, "heads (7)"),
        ({"model_type": "clip_vision_model", **VISION, "hidden_act": "magic"}, "'magic'"),
    ],
)
def test_invalid_clip_config(clip, tmp_path, content, message) -> None:
    write_clip(clip, tmp_path, "")
    content = content if isinstance(content, str) else json.dumps(content)
    assert message in tower_fault(load_vision_tower, tmp_path / "config.json", content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "contains a list, not an object"),
        ('{"model_cfg": []}', "is not a valid model config"),
        ("{}", "timm_model_name is None"),
        ('{"preprocess_cfg": 1}', "timm_model_name is None"),
    ],
)
def test_invalid_openclip_config(tmp_path, content, message) -> None:
    path = tmp_path / "open_clip_config.json"
    assert message in tower_fault(load_convnext_tower, path, content)


def test_openclip_names(monkeypatch) -> None:
    pytest.importorskip("open_clip")
    names: list[str] = []
    monkeypatch.setattr(
        "mgm.model.files.hub.checkpoint_folder", lambda name: names.append(name) or Path(name)
    )
    # The published models' ConvNeXt, by its folder name in model_zoo.
    part_folder("convnext_large_d_320:laion2b_s29b_b131k_ft_soup")
    part_folder("hf-hub:laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup")
    part_folder("google/siglip2-base-patch16-256")
    repository = "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"
    assert names == [repository, repository, "google/siglip2-base-patch16-256"]
    with pytest.raises(MGMError, match=r"convnext_large_d_320 it has .*laion2b_s29b_b131k_ft_soup"):
        part_folder("convnext_large_d_320:best")
    assert part_folder("work_dirs/missing/model") == Path("work_dirs/missing/model")


def test_openclip_names_without_the_package(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(
        MGMError, match=r"install the extra: pip install 'mgm\[openclip\]', or give"
    ):
        part_folder("convnext_large_d_320:laion2b_s29b_b131k_ft_soup")
