"""Selective activation checkpointing: equal gradients, without recomputing matrix products."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mgm.errors import MGMError
from mgm.train.__main__ import run_training
from mgm.train.optim.activation_checkpointing import (
    enable_activation_checkpointing,
    selective_checkpoint_kwargs,
)
from tests.model.tiny import batch_of, random_images, tiny_model
from tests.train.conftest import words


def gradients(options) -> tuple[list[torch.Tensor], int]:
    """Gradients of a model, and the operations of its forward and backward pass."""
    model = tiny_model().train()
    if options is not None:
        enable_activation_checkpointing(model, options)
    batch = batch_of(model.config, ["I" + "t" * 50, "It"])
    with FlopCounterMode(display=False) as counter:
        images = random_images(model.config, 2)
        model(**batch, **images, labels=batch["input_ids"]).loss.backward()
    return [p.grad for p in model.parameters() if p.grad is not None], counter.get_total_flops()


def test_gradients_equal_and_products_are_not_recomputed():
    plain, once = gradients(None)
    whole, twice = gradients({"use_reentrant": False})
    selective, again = gradients(selective_checkpoint_kwargs())
    for first, second, third in zip(plain, whole, selective, strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first, third)
    assert twice > 1.1 * once
    assert again < 1.02 * once


def test_run_gives_the_same_weights(stage2_flags, tmp_path):
    flags = stage2_flags | {"save_strategy": "no", "output_dir": tmp_path / "plain"}
    plain = run_training(words(flags)).model.state_dict()
    more = {"gradient_checkpointing": True, "selective_checkpointing": True}
    flags |= more | {"output_dir": tmp_path / "selective"}
    for name, tensor in run_training(words(flags)).model.state_dict().items():
        assert torch.equal(tensor, plain[name]), name


def test_needs_gradient_checkpointing(stage2_flags, tmp_path):
    with pytest.raises(MGMError, match="does nothing without --gradient_checkpointing"):
        run_training(
            words(stage2_flags | {"output_dir": tmp_path, "selective_checkpointing": True})
        )
