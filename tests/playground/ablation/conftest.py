"""A study of tiny models that really trains: two arms, two seeds, a few steps."""

import shutil
from pathlib import Path

import pytest

from playground.pretraining.encoder_sets import encoder_set
from tests.shared_folders import shared_folder
from tests.train.conftest import make_parts

TINY_STUDY = """
[inputs]
language_model = "language"
encoders = "encoders"

[data]
train = "--split train --count 24 --seed 1 --kinds shapes sign"
held_out = "--split held_out --count 6 --seed 2 --kinds shapes sign"

[arms.A1]
title = "mining"
controls = ["shift"]
config = { image_size_aux = 128, model_max_length = 512 }

[arms.A2]
title = "pooling"
fusion = { mode = "pool" }
config = { image_size_aux = 128, model_max_length = 512 }

[sizes.S]
title = "six steps"
cpu_hours = 0.01
keep_model = true
stage_1 = { max_steps = 6, save_steps = 2, per_device_train_batch_size = 2 }
stage_2 = { max_steps = 6, save_steps = 2, per_device_train_batch_size = 2 }

[[plan]]
size = "S"
arms = ["*"]
seeds = [1, 2]

[[comparisons]]
title = "attention against the mean"
size = "S"
reference = "A1"
rivals = ["A2"]
"""


@pytest.fixture(scope="session")
def tiny_inputs(tmp_path_factory) -> Path:
    """A folder with a tiny language model and encoders under the names of the base set."""
    return shared_folder(tmp_path_factory, "ablation-inputs", make_inputs)


def make_inputs(root: Path) -> None:
    make_parts(root / "parts")
    base = encoder_set("base")
    (root / "encoders").mkdir()
    shutil.move(root / "parts/language", root / "language")
    shutil.move(root / "parts/clip", root / "encoders" / base.vit.name)
    shutil.move(root / "parts/convnext", root / "encoders" / base.convnext.name)
