"""What the end of a language model computes for a few tokens is what it computes for all."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from mgm.engine.scheduler.last_layer import BEHIND_ATTENTION, LastLayer

FAMILIES = {  # and which parts it finds in them
    "llama": 2,
    "gemma": 2,
    "gemma2": 2,
    "mistral": 2,
    "mixtral": 2,
    "gpt_oss": 2,
    "qwen2": 2,
    "qwen3": 2,
    "qwen3_moe": 2,
    "phi3": 2,
    "olmo2": 2,
    "cohere": 2,
    "phi": 1,  # calls what is behind attention otherwise
    "gpt2": 0,
}


def built(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 90,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2 if kind != "phi" else 4,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.3,
    }
    if kind in ("mixtral", "gpt_oss"):
        sizes |= {"num_local_experts": 4, "num_experts_per_tok": 2}
    if kind == "qwen3_moe":
        sizes |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).eval()


families = pytest.mark.parametrize("kind", FAMILIES)


@families
@torch.inference_mode()
def test_logits_are_those_of_a_whole_call(kind):
    model = built(kind)
    ids = torch.randint(3, 90, (3, 11))
    whole = model(input_ids=ids)
    rows, places = torch.tensor([0, 2, 2, 1]), torch.tensor([10, 4, 10, 7])
    with LastLayer(model).only_for(rows, places):
        few = model(input_ids=ids)
    torch.testing.assert_close(few.logits, whole.logits[rows, places].unsqueeze(0))
    for one, other in zip(few.past_key_values.layers, whole.past_key_values.layers, strict=True):
        torch.testing.assert_close(one.keys, other.keys)
        torch.testing.assert_close(one.values, other.values)
    # Afterwards a call computes everything again.
    torch.testing.assert_close(model(input_ids=ids).logits, whole.logits)


def test_other_threads_compute_everything():
    model = built("llama")
    ids = torch.randint(3, 90, (3, 11))
    with torch.no_grad(), ThreadPoolExecutor(1) as pool:
        whole = model(input_ids=ids).logits
        with LastLayer(model).only_for(torch.tensor([0]), torch.tensor([10])):
            elsewhere = pool.submit(torch.no_grad()(model), input_ids=ids).result().logits
            assert model(input_ids=ids).logits.shape == (1, 1, 90)
    torch.testing.assert_close(elsewhere, whole)


@families
@torch.inference_mode()
def test_only_these_tokens_are_computed(kind):
    model = built(kind)
    decoder = model.get_decoder()
    modules: list[nn.Module] = []
    if FAMILIES[kind]:
        last = dict(decoder.layers[-1].named_modules())
        modules = [last[name] for name in BEHIND_ATTENTION if name in last]
    assert len(modules) == FAMILIES[kind]
    tokens: list[int] = []

    def count(_: nn.Module, args: tuple[Tensor]) -> None:
        tokens.append(args[0].shape[:-1].numel())

    with LastLayer(model).only_for(torch.tensor([0, 1]), torch.tensor([5, 8])):
        for module in (*modules, model.get_output_embeddings()):
            module.register_forward_pre_hook(count)
        model(input_ids=torch.randint(3, 90, (2, 9)))
    assert tokens == [2] * (1 + len(modules))
