"""Two processes resume with something changed: one error for all ranks."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.preloaded import PYTHON
from tests.train.conftest import words
from tests.train.test_processes import LIMIT, ROOT, zero_settings

pytestmark = pytest.mark.slow


def train(
    flags: dict[str, object], processes: int, launcher: bool = True
) -> subprocess.CompletedProcess[str]:
    torchrun = ("torch.distributed.run", "--standalone", f"--nproc_per_node={processes}")
    program = (*torchrun, "--module", "mgm.train") if launcher else ("mgm.train",)
    if launcher:
        flags = flags | {"ddp_backend": "gloo", "ddp_timeout": 120}
    return subprocess.run(
        [PYTHON, "-m", *program, *words(flags)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "DS_SKIP_CUDA_CHECK": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode != 0
    assert "Traceback" not in done.stderr.split("torch/distributed/")[0]
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


@pytest.fixture
def flags(stage2_flags, tmp_path) -> dict[str, object]:
    return stage2_flags | {
        "per_device_train_batch_size": 1,
        "group_by_modality_length": False,
        "max_steps": 2,
        "output_dir": tmp_path / "run",
    }


@pytest.mark.parametrize("form", ["ddp", "zero2", "fsdp"])
def test_other_number_of_processes(flags, tmp_path, form):
    if form == "zero2":
        pytest.importorskip("deepspeed")
        flags = flags | {"deepspeed": zero_settings("zero2", tmp_path)}
    elif form == "fsdp":
        flags = flags | {"fsdp": "full_shard"}
    done = train(flags, 2)
    assert done.returncode == 0, done.stderr[-3000:]
    for processes in (1, 3):
        (error,) = errors(train(flags, processes))
        assert f"number of processes was 2, is {processes}" in error
    (error,) = errors(train(flags | {"learning_rate": 0.5}, 2))
    assert "--learning_rate was 0.01, is 0.5" in error
    (error,) = errors(train(flags | {"data_path": other_data(flags, tmp_path)}, 2))
    assert "--data_path was " in error
    checkpoint = Path(str(flags["output_dir"])) / "checkpoint-2"
    damaged = checkpoint / "rng_state_1.pth"  # of the second process
    damaged.write_bytes(damaged.read_bytes()[:100])
    (error,) = errors(train(flags | {"max_steps": 3}, 2))
    assert "rng_state_1.pth: changed since the checkpoint was made" in error
    damaged.unlink()
    (error,) = errors(train(flags | {"max_steps": 3}, 2))
    assert "rng_state_1.pth: is missing" in error


def other_data(flags: dict[str, object], folder: Path) -> Path:
    source = Path(str(flags["data_path"]))
    samples = json.loads(source.read_text())
    for sample in samples:
        if isinstance(sample.get("image"), str):
            sample["image"] = str(source.parent / sample["image"])
        elif "image" in sample:
            sample["image"] = [str(source.parent / image) for image in sample["image"]]
    (folder / "other.json").write_text(json.dumps(samples))
    return folder / "other.json"


FIXED = {"train_micro_batch_size_per_gpu": 16, "gradient_accumulation_steps": 8}


@pytest.mark.parametrize(
    ("settings", "more", "message"),
    [
        (FIXED, {}, "train_micro_batch_size_per_gpu is 16, --per_device_train_batch_size is 1"),
        ({"train_batch_size": 1}, {}, "train_batch_size is 1, 2 processes x"),
        ({"fp16": {"enabled": True}}, {"fp16": True}, "not supported on a CPU"),
        (
            {"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 7}}},
            {},
            "warmup_num_steps=7",
        ),
    ],
    ids=["batch", "samples", "fp16", "warmup"],
)
def test_conflicting_settings_are_reported_once(flags, tmp_path, settings, more, message):
    pytest.importorskip("deepspeed")
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}} | settings))
    (error,) = errors(train(flags | more | {"deepspeed": file}, 2))
    assert message in error


@pytest.mark.parametrize("config", ["zero2", "zero3"])
def test_deepspeed_without_a_launcher(flags, tmp_path, config):
    pytest.importorskip("deepspeed")
    flags = flags | {"deepspeed": zero_settings(config, tmp_path)}
    done = train(flags, 1, launcher=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "no launcher started this process; training in a single process" in done.stderr
    assert "step 2 of 2" in done.stderr
    again = train(flags, 1, launcher=False)
    assert "all 2 steps are done" in again.stderr
