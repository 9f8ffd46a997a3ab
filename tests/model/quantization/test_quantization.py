"""Quantised language models: every family, unchanged towers, expected errors."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn
from transformers import BitsAndBytesConfig

from mgm.errors import MGMError
from mgm.model.loading import load_model, save_model
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.quantization.bitsandbytes import QUANTIZATION_KINDS
from mgm.model.quantization.int8_linear import quantize_rows
from mgm.model.quantization.moe_experts import LinearExpert
from tests.model.tiny import TEXT, batch_of, random_images, tiny_model

# Twice the relative errors of logits with random weights; trained weights give smaller ones.
LIMITS = {"int8": 0.04, "llm-int8": 0.06, "int4": 0.5}
WIDE = TEXT | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "head_dim": 32,
    "num_key_value_heads": 2,
}
FAMILIES = {
    "llama": WIDE,
    "gemma": WIDE | {"model_type": "gemma", "tie_word_embeddings": True},
    "mistral": WIDE | {"model_type": "mistral"},
    "mixtral": WIDE | {"model_type": "mixtral", "num_local_experts": 3},
}


KIND = [
    pytest.param(kind, marks=pytest.mark.skipif(lacking, reason="needs bitsandbytes"))
    for kind in QUANTIZATION_KINDS
    for lacking in [kind != "int8" and find_spec("bitsandbytes") is None]
]


@pytest.fixture(params=FAMILIES)
def saved(request, tmp_path):
    torch.manual_seed(0)
    model = MGMForConditionalGeneration(tiny_model(text_config=FAMILIES[request.param]).config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    save_model(model.eval(), tmp_path / "saved")
    return model, tmp_path / "saved"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KIND)
def test_every_family(saved, kind) -> None:
    model, folder = saved
    small = load_model(folder, dtype="float32", quantize=kind)
    inputs = batch_of(model.config, ["abIcd"]) | random_images(model.config, 1)
    with torch.no_grad():
        expected = model(**inputs).logits
        error = ((small(**inputs).logits - expected).norm() / expected.norm()).item()
        images = random_images(model.config, 1)
        features = small.get_image_features(**images)
        assert torch.equal(features, model.get_image_features(**images))
    assert 1e-5 < error < LIMITS[kind]
    layers = dict(small.language_model.model.layers.named_modules())
    assert not [name for name, layer in layers.items() if type(layer) is nn.Linear]
    mixed = model.config.text_config.model_type == "mixtral"
    assert any(isinstance(module, LinearExpert) for module in small.modules()) == mixed


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_plain_transformers_keeps_the_towers(saved) -> None:
    model, folder = saved
    bits = BitsAndBytesConfig(load_in_4bit=True)
    small = MGMForConditionalGeneration.from_pretrained(folder, quantization_config=bits)
    for name, value in model.state_dict().items():
        if not name.startswith("language_model"):
            assert torch.equal(small.state_dict()[name], value), name


def test_linear_experts_equal_fused_ones(tmp_path) -> None:
    from mgm.model.checkpoint.checkpoint import read_checkpoint
    from mgm.model.quantization.moe_experts import with_linear_expert_names

    model = tiny_model(text_config=FAMILIES["mixtral"])
    save_model(model, tmp_path / "saved")
    tensors = with_linear_expert_names(read_checkpoint(tmp_path / "saved").tensors)
    apart = MGMForConditionalGeneration.from_pretrained(
        None, config=model.config, state_dict=tensors, linear_experts=True
    )
    inputs = batch_of(model.config, ["abcdefghijk", "lmnop"])
    with torch.no_grad():
        torch.testing.assert_close(apart(**inputs).logits, model(**inputs).logits)


def test_unknown_kinds_and_missing_packages(tmp_path, monkeypatch) -> None:
    save_model(tiny_model(), tmp_path / "saved")
    with pytest.raises(MGMError, match=r"quantize is 'int3'; choose None, int8, llm-int8, int4"):
        load_model(tmp_path / "saved", quantize="int3")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        MGMError, match=r"needs bitsandbytes; install the extra: pip install 'mgm\[q"
    ):
        load_model(tmp_path / "saved", quantize="int4")


def test_int8_weights_times_scale() -> None:
    weight = torch.randn(5, 40)
    weight[2] = 0
    whole, scale = quantize_rows(weight)
    assert whole.dtype == torch.int8
    assert whole.abs().amax(1).tolist() == [127, 127, 0, 127, 127]
    # No weight has an error of more than half a step.
    off = (weight - whole * scale.unsqueeze(1)).abs()
    assert (off <= scale.unsqueeze(1) / 2 + 1e-7).all()


def test_int8_takes_a_quarter_of_float32_memory(tmp_path) -> None:
    save_model(tiny_model(text_config=WIDE), tmp_path / "saved")
    full = load_model(tmp_path / "saved").language_model.model.layers
    small = load_model(tmp_path / "saved", quantize="int8").language_model.model.layers
    sizes = [sum(t.nbytes for t in part.state_dict().values()) for part in (full, small)]
    assert sizes[1] < 0.3 * sizes[0]
