import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import mgm
from benchmarks.reference_mining import concatenated_map, published_attention
from mgm.data.image_processing_mgm import MGMImageProcessor
from mgm.data.processing_mgm import MGMProcessor
from mgm.engine.attribution.attention_probe import probe_attention
from mgm.engine.attribution.mining import attribute_mining
from mgm.engine.engine import Engine
from mgm.errors import MGMError
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from tests.model.tiny import HD, TEXT, tiny_model
from tests.tiny_model import build, byte_tokenizer

ANSWER = "a red square"


def eager_attention(engine: Engine, request: mgm.Request, answer: str) -> Tensor:
    """Attention weights (length) of transformers' eager attention, at the positions that predict
    the answer.
    """
    model, processor = engine.model, engine.processor
    prompt = processor.encode(engine.prompt(request))
    written = processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*prompt, *written[:-1]]])
    features = torch.stack(engine.images.encode(request.images))
    before = model.config.text_config._attn_implementation
    model.set_attn_implementation({"text_config": "eager"})
    with torch.no_grad():
        output = model(input_ids=ids, image_features=features, output_attentions=True)
    model.set_attn_implementation({"text_config": before})
    layers = torch.stack(output.attentions)[:, 0]  # (layers, heads, length, length)
    return layers[:, :, len(prompt) - 1 :].mean((0, 1, 2))[ids[0] == model.config.image_token_id]


def test_answer_attention_equals_transformers(engine, pictures) -> None:
    request = mgm.Request("compare", images=pictures)
    before = engine.answer([request])
    attribution = attribute_mining(engine, request, ANSWER)
    shares = np.concatenate([one.answer.ravel() for one in attribution])
    expected = eager_attention(engine, request, ANSWER).numpy()
    np.testing.assert_allclose(shares, expected, rtol=1e-4, atol=1e-7)
    assert 0 < shares.sum() < 1
    assert engine.answer([request]) == before  # the attention implementation is restored


def test_capped_attention(tmp_path, pictures) -> None:
    capped = {"model_type": "gemma2", "query_pre_attn_scalar": 16, "head_dim": 16}
    engine = mgm.load(build(tmp_path / "capped", **capped), device="cpu")
    assert engine.model.config.text_config.attn_logit_softcapping
    request = mgm.Request("what?", images=pictures[:1])
    (attribution,) = attribute_mining(engine, request, ANSWER)
    expected = eager_attention(engine, request, ANSWER).numpy()
    np.testing.assert_allclose(attribution.answer.ravel(), expected, rtol=1e-3, atol=1e-6)


def test_mining_attention_equals_published(engine, pictures) -> None:
    (_, attribution) = attribute_mining(engine, mgm.Request("what?", images=pictures))
    assert attribution.answer is None
    assert attribution.view.size == (64, 64)
    inputs = engine.processor.image_processor([pictures[1]])
    model: MGMForConditionalGeneration = engine.model
    with torch.no_grad():
        tokens = model.low_resolution_tokens(inputs["pixel_values"])
        full = concatenated_map(model.high_resolution_stages(inputs["pixel_values_aux"]))
        expected = published_attention(model.mining, tokens[:, 0], full)
    np.testing.assert_allclose(attribution.mining, expected.numpy(), rtol=1e-3, atol=1e-6)


def test_crops_and_global_view_are_in_order(pictures) -> None:
    tokenizer = byte_tokenizer()
    model = tiny_model(**HD, text_config=TEXT | {"vocab_size": len(tokenizer)})
    config = model.config
    images = MGMImageProcessor(
        config.image_size, config.image_size_aux, config.image_grid, config.image_global
    )
    engine = Engine(model, MGMProcessor(images, tokenizer, "nano", patch_size=7))
    request = mgm.Request("what?", images=pictures[1:])
    (attribution,) = attribute_mining(engine, request, ANSWER)
    assert attribution.grid == 2
    side = config.tokens_per_side
    assert attribution.mining.shape[:2] == attribution.answer.shape == (5, side**2)
    expected = eager_attention(engine, request, ANSWER).view(5, -1).numpy()
    np.testing.assert_allclose(attribution.answer, expected[[1, 2, 3, 4, 0]], rtol=1e-4, atol=1e-7)


def test_runs_in_the_engine_thread(engine, pictures) -> None:
    request = mgm.Request("what?", images=pictures[:1])
    (alone,) = attribute_mining(engine, request, ANSWER)
    engine.start()
    try:
        (attribution,) = attribute_mining(engine, request, ANSWER)
    finally:
        engine.stop()
    np.testing.assert_array_equal(attribution.mining, alone.mining)
    np.testing.assert_array_equal(attribution.answer, alone.answer)


def test_unsupported_requests(engine) -> None:
    with pytest.raises(MGMError, match="no image"):
        attribute_mining(engine, mgm.Request("hello"))
    engine.model.mining = None
    with pytest.raises(MGMError, match="no high-resolution encoder"):
        attribute_mining(engine, mgm.Request("what?", images=[Image.new("RGB", (9, 9))]))


def test_unsupported_attention_of_a_model() -> None:
    class Deaf(torch.nn.Module):
        config = type("Config", (), {"_attn_implementation": "eager"})

        def set_attn_implementation(self, name: str) -> None:
            self.config._attn_implementation = name

        def forward(self, **_: object) -> None:
            return None

    with pytest.raises(MGMError, match="Deaf"):
        probe_attention(Deaf(), torch.zeros(1, 3, 4), 1)
