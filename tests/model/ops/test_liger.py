"""Results with liger-kernel's kernels, which run in Triton's interpreter here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mgm.errors import MGMError
from tests.model.tiny import tiny_model

pytest.importorskip("liger_kernel")
COMPARE = """
import torch
from transformers.models.llama import modeling_llama
from tests.model.inputs import difference
from tests.model.test_modeling_mgm import LABELLED, labelled
from tests.model.tiny import random_images, tiny_model

model = tiny_model().train()
images, batch = random_images(model.config, 3), labelled(model.config, LABELLED)


def step():
    model.zero_grad()
    loss = model(**batch, **images, num_items_in_batch=torch.tensor(17)).loss
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    return loss.item(), gradients


loss, gradients = step()
model.use_liger_kernel(rms_norm=False, swiglu=False)  # which Triton's interpreter does not run
liger_loss, liger_gradients = step()
assert abs(liger_loss - loss) < 1e-5 * loss, (loss, liger_loss)
for name, gradient in gradients.items():
    if not name.startswith(("mining.key.bias", "mining.key.norm.bias")):
        assert difference(liger_gradients[name], gradient) < 1e-4, name
assert modeling_llama.apply_rotary_pos_emb.__module__.startswith("liger_kernel")
assert model._causal_lm_loss.linear_cross_entropy.__name__ == "liger_linear_cross_entropy"
"""


@pytest.mark.slow
def test_liger_equals_the_plain_model() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", COMPARE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_liger_without_a_gpu(monkeypatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MGMError, match="needs a GPU"):
        tiny_model().use_liger_kernel()
