"""The published LoRA layout, written by peft, merges to the same weights as with peft."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mgm.errors import MGMError
from mgm.model.loading import load_model, save_model
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.published_layout.weight_names import to_published
from tests.model.checkpoint.test_checkpoint import assembled, base  # noqa: F401
from tests.model.tiny import batch_of, random_images, tiny_model

peft = pytest.importorskip("peft")
LINEAR = ["q_proj", "v_proj", "down_proj"]


def train_lora(model: MGMForConditionalGeneration, **options):
    """The language model of `model` with a non-zero LoRA of peft."""
    settings = peft.LoraConfig(r=4, lora_alpha=6, target_modules=LINEAR, **options)
    wrapped = peft.get_peft_model(model.language_model, settings)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    return wrapped


def publish(model, wrapped, folder: Path, name: str = "adapter_model.safetensors") -> None:
    """Write the files of the published train.py with --lora_enable."""
    wrapped.save_pretrained(folder)
    if name.endswith(".bin"):  # as older versions of peft wrote it
        file = folder / "adapter_model.safetensors"
        torch.save(load_file(file), folder / name)
        file.unlink()
    others = {
        f"base_model.model.{to_published(name)}": value
        for name, value in model.state_dict().items()
        if name.startswith(("mining.", "projector."))
    }
    torch.save(others, folder / "non_lora_trainables.bin")


@pytest.fixture
def lora(base):  # noqa: F811
    model = assembled(base)
    wrapped = train_lora(model)
    publish(model, wrapped, base["stage1"])
    inputs = batch_of(model.config, ["abIc"]) | random_images(model.config, 1)
    with torch.no_grad():
        expected = model(**inputs).logits
    return base, inputs, expected, wrapped


def difference(ours, theirs) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def test_adapter_of_a_4_bit_base(lora) -> None:
    folders, inputs, expected, _ = lora
    path = folders["stage1"] / "config.json"
    values = json.loads(path.read_text())
    values["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    path.write_text(json.dumps(values))
    model = load_model(folders["stage1"], base=folders["language"])
    with torch.no_grad():
        assert difference(model(**inputs).logits, expected) < 1e-5


@pytest.mark.parametrize("merge", [True, False])
def test_logits_equal_peft(lora, merge) -> None:
    folders, inputs, expected, wrapped = lora
    model = load_model(folders["stage1"], base=folders["language"], merge_lora=merge)
    kept = [name for name, _ in model.named_parameters() if "lora_" in name]
    assert bool(kept) is not merge
    assert model.config.vision_config.hidden_size == 16
    with torch.no_grad():
        assert difference(model(**inputs).logits, expected) < 1e-5
    if not merge:
        with pytest.raises(MGMError, match="with a LoRA that is not merged; load it whole to save"):
            model.save_pretrained(folders["stage1"].with_name("again"))
        with pytest.raises(MGMError, match="int8 weights require the LoRA to be merged; merge"):
            load_model(folders["stage1"], "float32", None, "int8", folders["language"], False)
    else:
        weights = wrapped.merge_and_unload().state_dict()
        for name, value in weights.items():
            ours = model.language_model.state_dict()[name]
            assert torch.allclose(ours, value, atol=1e-6), name


def test_base_is_a_whole_mini_gemini(tmp_path, base) -> None:  # noqa: F811
    model = assembled(base)
    save_model(model, tmp_path / "whole")
    publish(model, train_lora(model, use_rslora=True), base["stage1"], "adapter_model.bin")
    inputs = batch_of(model.config, ["aIb"]) | random_images(model.config, 1)
    settings = base["stage1"] / "adapter_config.json"
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps(content | {"base_model_name_or_path": str(tmp_path / "whole")}))
    shutil.rmtree(base["clip"])  # the base has the towers
    with torch.no_grad():
        ours = load_model(base["stage1"])(**inputs).logits
        assert difference(ours, model(**inputs).logits) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "has no lora_magnitude_vector"),
        ({"r": None}, "r is None; valid: an integer from 1"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'; valid: true or false, or"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'; valid"),
        ({"layers_to_transform": [99]}, r"layers_to_transform is \[99\], which leaves out base_mo"),
        ({"layers_to_transform": 1}, r"layers_to_transform is 1, .*layers\.0\."),
        ({"target_modules": ["q_proj", "x"]}, r"target_modules is .* leaves out .*_proj\.lora_A"),
        ({"exclude_modules": ["q_proj"]}, r"exclude_modules is .* leaves out .*q_proj\.lora_A"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is .* not supported; merge it"),
        ({"lora_bias": True}, "lora_bias is True, which is not supported"),
    ],
)
def test_unsupported_adapters(lora, change, message) -> None:
    folders = lora[0]
    settings = folders["stage1"] / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | change))
    with pytest.raises(MGMError, match=message):
        load_model(folders["stage1"], base=folders["language"])


def test_adapter_of_another_base(tmp_path, lora) -> None:
    folders = lora[0]
    other = tiny_model(
        text_config=json.loads((folders["language"] / "config.json").read_text())
        | {"hidden_size": 48}
    )
    other.language_model.save_pretrained(tmp_path / "other")
    with pytest.raises(MGMError, match=r"adapter_model.safetensors: .* do not fit model.layers.0"):
        load_model(folders["stage1"], base=tmp_path / "other")


def test_incomplete_adapter(lora) -> None:
    file = lora[0]["stage1"] / "adapter_model.safetensors"
    weights = load_file(file)
    weights.pop(next(name for name in weights if "lora_B" in name))
    save_file(weights, file)
    with pytest.raises(MGMError, match=r"adapter_model.safetensors: .*lora_A.* has no counterpart"):
        load_model(lora[0]["stage1"], base=lora[0]["language"])


@pytest.mark.parametrize(
    "change",
    [
        {"bias": "all"},  # modules that this model does not have
        {"init_lora_weights": "gaussian", "layers_to_transform": [0, 1], "exclude_modules": ["x"]},
        {"target_modules": r".*\.(q_proj|v_proj|down_proj)"},
        {"target_modules": None},
    ],
)
def test_settings_without_effect(lora, change) -> None:
    folders, inputs, expected, _ = lora
    settings = folders["stage1"] / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | change))
    with torch.no_grad():
        logits = load_model(folders["stage1"], base=folders["language"])(**inputs).logits
    assert difference(logits, expected) < 1e-5
