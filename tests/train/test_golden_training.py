"""Four optimizer steps of stage 2 equal the published ones, through the command line."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mgm.data.datasets.samplers import ModalitySampler
from mgm.model.loading import load_model
from mgm.model.published_layout.weight_names import to_published
from mgm.train.__main__ import run_training
from tests.golden_files import golden, golden_json
from tests.train.conftest import words
from tests.train.test_processes import ROOT, losses, train_in_processes

# Their true gradient is zero (softmax over a window ignores constants), so that rounding noise
# moves them, and Adam scales it to full steps.
NOISE = {"model.vlm_uni_aux_projector.0.bias", "model.vlm_uni_aux_projector.1.bias"}


@pytest.fixture(scope="module")
def expected():
    return golden_json("train/train.json")["stage2"]


@pytest.fixture(scope="module")
def flags(expected, tmp_path_factory):
    return {
        "model_name_or_path": golden("work_dirs/MGM/MGM-7B"),
        "data_path": golden("train/train_data.json"),
        "image_folder": golden("images"),
        "version": "v1",
        "image_aspect_ratio": "pad",
        "image_size_aux": 768,
        "output_dir": tmp_path_factory.mktemp("golden") / "out",
        "num_train_epochs": 1,
        "per_device_train_batch_size": 2,
        "learning_rate": expected["lr"],
        "weight_decay": expected["weight_decay"],
        "warmup_ratio": expected["warmup_ratio"],
        "lr_scheduler_type": "cosine",
        "group_by_modality_length": True,
        "evaluation_strategy": "no",
        "save_strategy": "no",
        "logging_steps": 1,
        "model_max_length": 2048,
        "lazy_preprocess": True,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
    }


@pytest.fixture(scope="module")
def trainer(flags, expected):
    order = expected["sample_order"]
    with pytest.MonkeyPatch.context() as patch:
        # The order depends on earlier random numbers; the sampler has tests of its own.
        patch.setattr(ModalitySampler, "__iter__", lambda self: iter(order))
        return run_training(words(flags))


@pytest.fixture(scope="module")
def steps(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_losses(steps, expected):
    assert [entry["loss"] for entry in steps] == pytest.approx(expected["losses"], rel=1e-4)


def test_gradient_norms(steps, expected):
    theirs = [entry["grad_norm"] for entry in expected["log"][:4]]
    assert [entry["grad_norm"] for entry in steps] == pytest.approx(theirs, rel=1e-4)


def test_learning_rates(steps, expected):
    # The published run logged the rate of the next step; that of the first is 0 (warm-up).
    theirs = [0.0] + [entry["learning_rate"] for entry in expected["log"][:3]]
    assert [entry["learning_rate"] for entry in steps] == pytest.approx(theirs)


def test_weight_changes(trainer, expected):
    before = load_model(golden("work_dirs/MGM/MGM-7B"), dtype=torch.float32).state_dict()
    moved = {}
    for name, tensor in trainer.model.state_dict().items():
        moved[to_published(name)] = (tensor - before[name]).norm().item()
    assert set(moved) == set(expected["delta_norm"])
    for name, theirs in expected["delta_norm"].items():
        assert moved[name] == pytest.approx(theirs, rel=1e-3, abs=1e-3 * (name in NOISE)), name


def test_weights_afterwards(trainer):
    check_weights(trainer.model.state_dict())


def check_weights(state):
    ours = {to_published(name): value for name, value in state.items()}
    with np.load(golden("train/stage2_after4.npz")) as theirs:
        for name in set(theirs.files) - NOISE:
            value = torch.from_numpy(theirs[name])
            assert (ours[name] - value).norm() <= 1e-4 * value.norm(), name


@pytest.mark.slow
@pytest.mark.parametrize("form", ["zero2", "zero3", "fsdp"])
def test_two_processes(flags, expected, tmp_path, form):
    script = tmp_path / "in_golden_order.py"
    script.write_text(
        "from mgm.errors import run_command\n"
        "from mgm.train.__main__ import main\n"
        "from mgm.data.datasets.samplers import ModalitySampler\n"
        f"ModalitySampler.__iter__ = lambda self: iter({expected['sample_order']})\n"
        "run_command(main)\n"
    )
    flags = flags | {"output_dir": tmp_path / "out", "per_device_train_batch_size": 1}
    if form == "fsdp":
        flags |= {"fsdp": "full_shard"}
    else:
        pytest.importorskip("deepspeed")
        flags |= {"deepspeed": ROOT / "scripts" / f"{form}.json"}
    done = train_in_processes(flags, program=(str(script),))
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "out") == pytest.approx(expected["losses"], rel=1e-4)
    check_weights(load_file(tmp_path / "out" / "model.safetensors"))
