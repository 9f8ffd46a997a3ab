import pytest
import torch

from mgm.errors import MGMError
from mgm.model.ops.attention import IMPLEMENTATIONS, set_attention
from tests.model.tiny import random_images, tiny_model


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_applies_to_language_model_and_vision_tower(implementation: str) -> None:
    model = tiny_model()
    set_attention(model, implementation)
    for part in (model, model.vision_tower, model.language_model):
        assert part.config._attn_implementation == implementation
    layer = model.vision_tower.encoder.layers[0].self_attn
    assert layer.config._attn_implementation == implementation


def test_implementations_agree(caplog) -> None:
    torch.manual_seed(0)
    model = tiny_model()
    pixels = random_images(model.config, 2)["pixel_values"]
    with torch.no_grad():
        outputs = []
        for implementation in ("sdpa", "eager"):
            set_attention(model, implementation)
            outputs.append(model.low_resolution_tokens(pixels))
    assert not torch.equal(*outputs)  # another implementation was used
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
    assert not caplog.records


@pytest.mark.parametrize("implementation", ["flash", ""])
def test_unknown_implementation(implementation: str) -> None:
    with pytest.raises(MGMError, match=", ".join(IMPLEMENTATIONS)):
        set_attention(tiny_model(), implementation)


@pytest.mark.skipif(torch.cuda.is_available(), reason="may be usable there")
def test_missing_package() -> None:
    with pytest.raises(MGMError, match=r"pip install -e '\.\[flash\]'"):
        set_attention(tiny_model(), "flash_attention_2")
