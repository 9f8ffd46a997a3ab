"""Damaged checkpoints of every layout load as the same model, or an error names the file."""

import random

import pytest
import torch

from tests.model.checkpoint.damage import (
    CONTENTS,
    KINDS,
    LAYOUTS,
    OTHER,
    REFUSED,
    SAME,
    damages,
    make_layout,
    run_all,
)


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_checkpoints(tmp_path, layout) -> None:
    if layout == "lora":
        pytest.importorskip("peft")
    torch.set_num_threads(1)  # this test forks processes
    make_layout(layout, tmp_path)
    cases = list(damages(layout, tmp_path))
    whole = [damage for damage in cases if damage.name in CONTENTS or damage.name in KINDS]
    fields = [damage for damage in cases if damage not in whole]
    draw = random.Random(7)
    chosen = draw.sample(whole, 16) + draw.sample(fields, 16)
    kinds = []
    for damage, outcome in run_all(chosen, {layout: tmp_path}):
        # Another valid value of a field cannot be detected.
        fine = (SAME, REFUSED) if damage in whole else (SAME, REFUSED, OTHER)
        kinds.append(outcome.kind)
        where = f"{damage.file}: {damage.name}"
        assert outcome.kind in fine, f"{where}: {outcome.kind}: {outcome.text}"
        assert "\n" not in outcome.text, where
    assert kinds.count(REFUSED) > 8
    assert SAME in kinds
