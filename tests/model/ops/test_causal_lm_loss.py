"""The loss of supervised positions equals that of all logits, for every kind of LM head."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from mgm.model.ops import fused_linear_cross_entropy as loss_module
from mgm.model.ops.causal_lm_loss import CausalLMLoss
from mgm.model.ops.fused_linear_cross_entropy import linear_cross_entropy
from tests.model.inputs import difference

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# how logits are computed from hidden states, and whether that is one linear layer
HEADS: dict[str, tuple[dict[str, Any], bool]] = {
    "linear": ({"model_type": "llama", "tie_word_embeddings": False}, True),
    "tied": ({"model_type": "llama", "tie_word_embeddings": True}, True),
    "with bias": ({"model_type": "phi"}, True),
    "capped": ({"model_type": "gemma2", "final_logit_softcapping": 2.0}, False),
    "scaled": ({"model_type": "granite", "logits_scaling": 3.0}, False),
}


def language_model(kind: str) -> nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**(SMALL | HEADS[kind][0]))
    model = AutoModelForCausalLM.from_config(config).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def samples() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 50, (3, 12), generator=generator)
    labels = torch.full_like(ids, -100)
    labels[0, 3:6] = ids[0, 3:6]
    labels[1, 8:] = ids[1, 8:]
    return {"input_ids": ids, "labels": labels}


def full_loss(logits: torch.Tensor, labels: torch.Tensor, count: int | None) -> torch.Tensor:
    total = F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
    )
    return total / ((labels[:, 1:] != -100).sum() if count is None else count)


def assert_same_gradients(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None), name
        if other.grad is not None:
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 3, 1000])
@pytest.mark.parametrize("count", [None, 20])
@pytest.mark.parametrize("kind", HEADS)
def test_loss_and_gradients_equal_all_logits(monkeypatch, kind, count, rows) -> None:
    monkeypatch.setattr(loss_module, "LOGITS_BYTES", 4 * 50 * rows)
    model = language_model(kind)
    whole = copy.deepcopy(model)
    batch = samples()
    supervised = CausalLMLoss()
    for _ in range(2):  # the first call analyses the head
        output = supervised(model, num_items_in_batch=count, **batch)
        (output.loss * 3).backward()
        expected = full_loss(whole(batch["input_ids"]).logits, batch["labels"], count)
        (expected * 3).backward()
        torch.testing.assert_close(output.loss, expected)
        assert (output.logits is None) == HEADS[kind][1]
    assert_same_gradients(model, whole)


def test_micro_batches_add_up() -> None:
    """As with gradient accumulation and several devices, which share one count."""
    model, parts = language_model("linear"), language_model("linear")
    batch = samples()
    CausalLMLoss()(model, **batch).loss.backward()
    count = (batch["labels"][:, 1:] != -100).sum()
    supervised = CausalLMLoss()
    for row in range(3):  # the last position has no label
        part = {name: value[row : row + 1] for name, value in batch.items()}
        supervised(parts, num_items_in_batch=count, **part).loss.backward()
    assert_same_gradients(parts, model)


@pytest.mark.parametrize("kind", HEADS)
def test_losses_of_groups(kind) -> None:
    model = language_model(kind)
    whole = copy.deepcopy(model)
    batch = samples()
    groups = torch.tensor([[5], [2], [7]]).repeat(1, batch["labels"].shape[1])
    groups[0, 4:] = 2  # a packed row has several samples
    supervised = CausalLMLoss()
    for _ in range(2):  # the first call analyses the head
        output = supervised(model, loss_group_ids=groups, **batch)
        output.loss.backward()
        logits = whole(batch["input_ids"]).logits
        expected = full_loss(logits, batch["labels"], None)
        expected.backward()
        torch.testing.assert_close(output.loss, expected)
        by_group = {int(group): (loss, count) for group, loss, count in output.group_losses}
        for group in groups.unique().tolist():
            labels = batch["labels"].masked_fill(groups != group, -100)
            count = int((labels[:, 1:] != -100).sum())
            if count:
                loss, counted = by_group.pop(group)
                assert int(counted) == count
                torch.testing.assert_close(loss, full_loss(logits, labels, 1).detach())
        assert not by_group
    assert_same_gradients(model, whole)


def test_batch_without_labels() -> None:
    model, supervised = language_model("linear"), CausalLMLoss()
    batch = samples()
    batch["labels"][:] = -100
    output = supervised(model, loss_group_ids=batch["labels"].abs(), **batch)
    loss = output.loss
    loss.backward()
    assert loss == 0
    assert output.group_losses.shape == (0, 3)
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_autocast() -> None:
    model = language_model("linear")
    whole = copy.deepcopy(model)
    batch = samples()
    with torch.autocast("cpu", torch.bfloat16):
        output = CausalLMLoss()(model, **batch)
        expected = full_loss(whole(batch["input_ids"]).logits, batch["labels"], None)
    assert output.logits is None
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    expected.backward()
    for mine, other in zip(model.parameters(), whole.parameters(), strict=True):
        assert mine.grad.dtype == torch.float32
        assert difference(mine.grad, other.grad) < 0.02


def test_lora_in_the_head() -> None:
    model = get_peft_model(
        language_model("linear"), LoraConfig(target_modules=["lm_head"], init_lora_weights=False)
    )
    whole = copy.deepcopy(model)
    batch = samples()
    loss = CausalLMLoss()(model.base_model.model, **batch).loss
    expected = full_loss(whole(batch["input_ids"]).logits, batch["labels"], None)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    assert_same_gradients(model, whole)


def test_head_with_zero_weights() -> None:
    model, batch = language_model("capped"), samples()
    supervised = CausalLMLoss()
    head = model.lm_head.weight.detach().clone()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    supervised(model, **batch)
    with torch.no_grad():
        model.lm_head.weight.copy_(head)
    expected = full_loss(model(batch["input_ids"]).logits, batch["labels"], None)
    torch.testing.assert_close(supervised(model, **batch).loss, expected)


@pytest.mark.parametrize("bias", [True, False])
def test_gradcheck(monkeypatch, bias) -> None:
    monkeypatch.setattr(loss_module, "LOGITS_BYTES", 4 * 7 * 2)
    torch.manual_seed(0)
    made = {"dtype": torch.float64, "requires_grad": True}
    hidden, weight = torch.randn(5, 3, **made), torch.randn(7, 3, **made)
    shift = torch.randn(7, **made) if bias else None
    targets = torch.randint(7, (5,))
    assert torch.autograd.gradcheck(linear_cross_entropy, (hidden, weight, shift, targets))


def test_retain_graph() -> None:
    hidden, weight = torch.randn(5, 3, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, None, torch.randint(7, (5,)))
    first = torch.autograd.grad(loss / 4, (hidden, weight), retain_graph=True)
    again = torch.autograd.grad(loss / 2, (hidden, weight))
    for left, right in zip(first, again, strict=True):
        torch.testing.assert_close(2 * left, right)


@torch.no_grad()
def test_gradients_only_where_required() -> None:
    hidden, weight, targets = torch.randn(5, 3), torch.randn(7, 3), torch.randint(7, (5,))
    loss = linear_cross_entropy(hidden, weight, None, targets)
    torch.testing.assert_close(loss, F.cross_entropy(hidden @ weight.T, targets, reduction="sum"))
    assert not loss.requires_grad
