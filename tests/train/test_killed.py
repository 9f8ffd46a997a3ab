"""Runs that are killed with SIGKILL at random moments end with the same weights."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.data.shards import as_tars
from tests.preloaded import PYTHON
from tests.train.conftest import words

ROOT = Path(__file__).parents[2]
LIMIT = 180  # seconds
PACKED = {"streaming": True, "packing": True, "dataloader_num_workers": 2}
DIVIDED = {"streaming": True, "fsdp": "full_shard"}


def command(flags: dict[str, object], processes: int) -> list[str]:
    python = [PYTHON, "-m"]
    if processes == 1:
        return [*python, "mgm.train", *words(flags)]
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    gloo = flags | {"ddp_backend": "gloo", "ddp_timeout": 60}
    return [*python, *torchrun, "--module", "mgm.train", *words(gloo)]


def start(flags: dict[str, object], processes: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(flags, processes),
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    _, log = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, log[-3000:]


def kill_while_it_trains(process: subprocess.Popen[str], folder: Path, draw: random.Random) -> None:
    """Kill a run after it wrote a new file; every other time while it saves."""
    before, in_a_save = set(folder.iterdir()), draw.random() < 0.5
    for _ in range(LIMIT * 1000):
        fresh = [path for path in folder.iterdir() if path not in before]
        if any(
            in_a_save == path.name.endswith(".part") for path in fresh if "checkpoint" in path.name
        ):
            break
        if process.poll() is not None:
            return
        time.sleep(0.001)
    time.sleep(draw.random() * 0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.process
@pytest.mark.parametrize(
    ("stage", "processes", "form", "kills"),
    [
        pytest.param(2, 1, {}, 1, id="once"),
        pytest.param(1, 1, {}, 3, id="stage 1", marks=pytest.mark.slow),
        pytest.param(2, 1, {}, 3, id="stage 2", marks=pytest.mark.slow),
        pytest.param(2, 2, {}, 3, id="two processes", marks=pytest.mark.slow),
        pytest.param(2, 1, PACKED, 3, id="packed stream", marks=pytest.mark.slow),
        pytest.param(2, 2, DIVIDED, 3, id="stream in two, FSDP", marks=pytest.mark.slow),
    ],
)
def test_killed_runs_end_with_the_same_weights(
    request, data, tmp_path, stage, processes, form, kills
):
    flags = request.getfixturevalue(f"stage{stage}_flags") | form
    steps = 4 if kills == 1 else 10
    if "streaming" in form:
        (tmp_path / "tars").mkdir()
        flags |= {"data_path": as_tars(data, tmp_path / "tars", 4)}
        flags |= {"group_by_modality_length": False, "model_max_length": 128}
    flags = flags | {
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 2,
        "max_steps": steps,
        "per_device_train_batch_size": 2 // processes,
        "logging_steps": 1,
    }
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    killed.mkdir()
    finish(start(flags | {"output_dir": straight}, processes))
    draw = random.Random(stage * processes)
    for _ in range(kills):
        kill_while_it_trains(start(flags | {"output_dir": killed}, processes), killed, draw)
    finish(start(flags | {"output_dir": killed}, processes))
    for name in ("model.safetensors", f"checkpoint-{steps}/model.safetensors"):
        ours, theirs = load_file(killed / name), load_file(straight / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items()), name
    for file in sorted((straight / f"checkpoint-{steps}").glob("optimizer*.pt")):
        theirs = torch.load(file, weights_only=True)["state"]
        ours = torch.load(killed / f"checkpoint-{steps}" / file.name, weights_only=True)["state"]
        for number, state in ours.items():
            assert torch.equal(state["exp_avg"], theirs[number]["exp_avg"])
    assert not list(killed.glob(".*.part"))
