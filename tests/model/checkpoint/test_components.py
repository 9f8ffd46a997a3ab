import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from mgm.errors import MGMError
from mgm.model.checkpoint.components import load_language_model, load_stage1, save_stage1
from mgm.model.loading import save_model
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from tests.golden_files import golden, golden_json
from tests.model.tiny import TEXT, VISION_AUX, batch_of, random_images, save_towers, tiny_model


@pytest.fixture
def folders(tmp_path) -> dict[str, Path]:
    """Folders of a tiny language model and tiny towers."""
    torch.manual_seed(0)
    paths = {name: tmp_path / name for name in ("language", "clip", "convnext")}
    LlamaForCausalLM(LlamaConfig(**TEXT)).save_pretrained(paths["language"])
    save_towers(paths["clip"], paths["convnext"])
    return paths


def test_weights_of_parts(folders) -> None:
    model = MGMForConditionalGeneration.from_parts(
        folders["language"], folders["clip"], folders["convnext"], image_size_aux=128
    )
    language = LlamaForCausalLM.from_pretrained(folders["language"])
    clip = CLIPVisionModel.from_pretrained(folders["clip"])
    trunk = torch.load(folders["convnext"] / "open_clip_pytorch_model.bin", weights_only=True)
    for ours, theirs in (
        (model.language_model.state_dict(), language.state_dict()),
        (model.vision_tower.state_dict(), clip.state_dict()),
        (model.vision_tower_aux.state_dict(), {k[13:]: value for k, value in trunk.items()}),
    ):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not any(parameter.requires_grad for parameter in model.vision_tower.parameters())
    assert all(parameter.requires_grad for parameter in model.language_model.parameters())


def test_parts_without_a_high_resolution_tower(folders) -> None:
    model = MGMForConditionalGeneration.from_parts(folders["language"], folders["clip"])
    assert model.mining is None
    assert model.get_image_features(torch.randn(1, 1, 3, 28, 28)).shape == (1, 16, 24)


def zoo_model(**overrides) -> MGMForConditionalGeneration:
    zoo = golden("model_zoo")
    (aux,) = (zoo / "OpenAI").glob("openclip-*")
    return MGMForConditionalGeneration.from_parts(
        zoo / "LLM/vicuna/7B-V1.5", zoo / "OpenAI/clip-vit-large-patch14-336", aux, **overrides
    )


def test_parts_from_published_folders() -> None:
    model = zoo_model(image_aspect_ratio="square", model_max_length=2048)
    assert model.config.image_aspect_ratio == "square"
    assert model.config.image_tokens_per_image == 576
    assert model.generation_config.eos_token_id == 2
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    zoo = golden("model_zoo")
    original = LlamaForCausalLM.from_pretrained(zoo / "LLM/vicuna/7B-V1.5", dtype=torch.float32)
    for name, value in original.state_dict().items():
        assert torch.equal(model.language_model.state_dict()[name], value), name
    # New parts have torch's initialisation.
    assert model.mining.key.norm.weight.eq(1).all()
    assert model.mining.key.weight.abs().max() <= 80**-0.5
    assert model.mining.key.weight.std() > 0.4 * 80**-0.5
    assert model.projector[0].weight.std() > 0.4 * 32**-0.5


def test_parts_in_half_precision() -> None:
    model = zoo_model(dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    batch = batch_of(model.config, ["abIc"])
    pixels = random_images(model.config, 1)
    assert model(**batch, **pixels).logits.isfinite().all()


def test_stage1_file_has_published_names(tmp_path) -> None:
    model = zoo_model()
    save_stage1(model, tmp_path / "mm_projector.bin")
    saved = torch.load(tmp_path / "mm_projector.bin", weights_only=True)
    expected = golden_json("quirks.json")["stage1_mm_projector_bin_keys"]["result"]["keys"]
    assert set(saved) == set(expected)


def test_stage1_round_trip(tmp_path) -> None:
    trained, fresh = tiny_model(seed=1), tiny_model(seed=2)
    save_stage1(trained, tmp_path / "mm_projector.bin")
    load_stage1(fresh, tmp_path)
    for name, value in fresh.state_dict().items():
        same = torch.equal(value, trained.state_dict()[name])
        assert same == (not name.startswith("language_model.")), name


def test_stage1_from_a_whole_model(tmp_path) -> None:
    trained, fresh = tiny_model(seed=1), tiny_model(seed=2)
    save_model(trained, tmp_path / "saved")
    load_stage1(fresh, tmp_path / "saved")
    assert torch.equal(fresh.mining.key.weight, trained.mining.key.weight)
    before = tiny_model(seed=2).language_model.state_dict()
    after = fresh.language_model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_stage1_file_must_fit(tmp_path) -> None:
    with pytest.raises(MGMError, match=r"other.bin: not found"):
        load_stage1(tiny_model(), tmp_path / "other.bin")
    with pytest.raises(MGMError, match=r"has no weights"):
        load_stage1(tiny_model(), tmp_path)
    save_stage1(tiny_model(projector_type="linear"), tmp_path / "mm_projector.bin")
    with pytest.raises(MGMError, match=r"missing \(projector.0.bias"):
        load_stage1(tiny_model(), tmp_path)
    aux = VISION_AUX | {"dims": [4, 8, 12, 20]}
    save_stage1(tiny_model(vision_aux_config=aux), tmp_path / "mm_projector.bin")
    with pytest.raises(MGMError, match="of shape"):
        load_stage1(tiny_model(), tmp_path)


@pytest.mark.parametrize("name", ["mm_projector.bin", "picture.png", "weights.safetensors"])
def test_stage1_file_without_weights(tmp_path, name) -> None:
    file = tmp_path / name
    file.write_bytes(b"\x89PNG not weights")
    with pytest.raises(
        MGMError, match=r"cannot be read as weights|not a safetensors file"
    ) as fault:
        load_stage1(tiny_model(), file)
    assert str(fault.value).startswith(f"{file}: ")
    assert "weights_only" not in str(fault.value)
    torch.save([1, 2], tmp_path / "list.bin")
    with pytest.raises(MGMError, match="cannot be read as weights"):
        load_stage1(tiny_model(), tmp_path / "list.bin")


def test_folder_without_a_language_model(tmp_path) -> None:
    zoo = golden("model_zoo")
    clip = zoo / "OpenAI/clip-vit-large-patch14-336"
    with pytest.raises(MGMError, match=r"has no config.json"):
        MGMForConditionalGeneration.from_parts(tmp_path, clip)
    LlamaForCausalLM(LlamaConfig(**TEXT)).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(MGMError, match="cut short"):
        MGMForConditionalGeneration.from_parts(tmp_path, clip)


@pytest.fixture
def language(folders) -> tuple[Path, dict[str, torch.Tensor]]:
    """The folder of a tiny language model, and its weights."""
    return folders["language"], load_file(folders["language"] / "model.safetensors")


def language_fault(folder: Path, weights: dict[str, torch.Tensor] | None = None) -> str:
    if weights is not None:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MGMError) as fault:
        load_language_model(folder, torch.float32)
    assert str(fault.value).startswith(str(folder))
    assert "\n" not in str(fault.value)
    return str(fault.value)


def test_language_model_with_missing_or_unexpected_weights(language) -> None:
    folder, weights = language
    name = "model.layers.1.mlp.up_proj.weight"
    taken = weights.pop(name)
    assert f"1 missing ({name})" in language_fault(folder, weights)
    assert "1 unexpected (surplus)" in language_fault(
        folder, weights | {name: taken, "surplus": torch.zeros(99999)}
    )


def test_language_model_with_weights_of_another_shape(language) -> None:
    folder, weights = language
    message = language_fault(folder, weights | {"model.norm.weight": torch.zeros(7)})
    assert "model.norm.weight has shape (7,), by config.json (24,); copy both" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{bad", "config.json: is not valid JSON"),
        (json.dumps(TEXT | {"hidden_size": 25}), "config.json: is not a valid model config"),
        (json.dumps({"model_type": "clip"}), "config.json: is not a valid model config"),
        (json.dumps({"model_type": "magic"}), "config.json: is not a valid model config"),
        (json.dumps({"model_type": "llama"}), "config.json: vocab_size is 32000, and "),
    ],
)
def test_language_model_with_another_config(language, content, message) -> None:
    (language[0] / "config.json").write_text(content)
    assert message in language_fault(language[0])
