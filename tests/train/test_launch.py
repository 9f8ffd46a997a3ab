"""The command and devices that the launcher starts; nothing is trained."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mgm.errors import MGMError
from mgm.train import launch
from mgm.train.distributed.batch_plan import BatchPlan, plan_batches
from mgm.train.distributed.hostfile import Host, read_hostfile
from tests.preloaded import PYTHON, environment
from tests.train.conftest import words

ROOT = Path(__file__).parents[2]
RECIPES = sorted(
    path
    for family in ("gemma", "llama", "llama3", "mixtral", "yi")
    for path in (ROOT / "scripts" / family / "train").glob("*.sh")
)
# Global batch sizes of the published runs, for stages 1 and 2.
GLOBAL = {1: 256, 2: 128}


def plan(tmp_path, monkeypatch, capsys, *words: str) -> str:
    monkeypatch.chdir(tmp_path)
    launch.main(["--dry-run", *words])
    return capsys.readouterr().out


def started(tmp_path, monkeypatch, *words: str) -> list[str]:
    """The command that the launcher executes."""
    commands = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execvp", lambda file, command: commands.append(command))
    launch.main(words)
    return commands[0]


def ended(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program to its end from another folder."""
    variables = environment(PYTHONPATH=str(ROOT))
    return subprocess.run(
        command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=240
    )


@pytest.mark.parametrize(
    ("samples", "devices", "max_per_device", "expected"),
    [
        (256, 16, 16, BatchPlan(16, 16, 1)),
        (256, 8, 16, BatchPlan(8, 16, 2)),
        (256, 1, 16, BatchPlan(1, 16, 16)),
        (128, 32, 4, BatchPlan(32, 4, 1)),
        (128, 64, 4, BatchPlan(64, 2, 1)),
        (96, 8, 8, BatchPlan(8, 6, 2)),
    ],
)
def test_global_batch_size_is_constant(samples, devices, max_per_device, expected):
    plan = plan_batches(samples, devices, max_per_device)
    assert plan == expected
    assert plan.global_batch_size == samples
    assert plan.per_device <= max_per_device


def test_numbers_of_devices_that_do_not_divide_the_batch():
    with pytest.raises(MGMError, match="256 is not divisible by 6 devices; use 4 of them"):
        plan_batches(256, 6, 16)
    with pytest.raises(MGMError, match="use 4 of them"):
        plan_batches(4, 8, 16)


def test_hostfile(tmp_path):
    file = tmp_path / "hostfile"
    file.write_text("# ours\nfirst slots=8\n\n second  slots=4 # half of it\n")
    assert read_hostfile(file) == [Host("first", 8), Host("second", 4)]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("first slot=8\n", "line 1: 'first slot=8'; write 'HOST slots=GPUS'"),
        ("first slots=0\n", "line 1"),
        ("a slots=8\na slots=8\n", "line 2: duplicate host a"),
        ("# nothing\n", "no hosts"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_invalid_hostfile(tmp_path, content, fault):
    file = tmp_path / "hostfile"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(MGMError, match=fault):
        read_hostfile(file)
    with pytest.raises(MGMError, match="No such file"):
        read_hostfile(tmp_path / "missing")


def test_last_of_repeated_flags_counts():
    words = ["--a", "1", "--b", "--c=x", "--a", "2", "-2", "--c", "y"]
    assert launch.merge_flags(words) == {"a": ["2", "-2"], "b": [], "c": ["y"]}
    with pytest.raises(MGMError, match="'1' belongs to no flag"):
        launch.merge_flags(["1"])


def test_one_process_on_a_cpu(tmp_path, monkeypatch):
    command = started(
        tmp_path, monkeypatch, "--use_cpu", "True", "--deepspeed", "z.json", "--output_dir", "o"
    )
    assert command[:3] == [sys.executable, "-m", "mgm.train"]
    assert "--deepspeed" not in command  # a single process shards nothing


def test_several_processes_on_a_cpu(tmp_path, monkeypatch):
    command = started(
        tmp_path, monkeypatch, "--use_cpu", "--devices", "2", "--global_batch_size", "8"
    )
    assert command[2:6] == [
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "--module",
    ]
    assert command[command.index("--ddp_backend") + 1] == "gloo"
    assert command[command.index("--per_device_train_batch_size") + 1] == "4"


@pytest.mark.parametrize(
    ("devices", "expected"),
    [(1, "mgm.train"), (8, "torch.distributed.run")],
)
def test_local_gpus(tmp_path, monkeypatch, devices, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: devices)
    assert started(tmp_path, monkeypatch, "--output_dir", "o")[2] == expected


def test_machines_of_a_hostfile(tmp_path, monkeypatch):
    pytest.importorskip("deepspeed")
    (tmp_path / "hostfile").write_text("first slots=8\nsecond slots=8\n")
    command = started(tmp_path, monkeypatch, "--global_batch_size", "256")
    assert command[:4] == ["deepspeed", "--hostfile", "hostfile", "--master_port"]
    assert "--no_local_rank" in command  # each process has it in its environment
    assert command[command.index("--module") + 1] == "mgm.train"
    assert command[command.index("--per_device_train_batch_size") + 1] == "8"
    assert command[command.index("--gradient_accumulation_steps") + 1] == "2"


def test_four_machine_recipes_prefer_hostfile_4(tmp_path, monkeypatch):
    pytest.importorskip("deepspeed")
    (tmp_path / "hostfile").write_text("first slots=8\nsecond slots=8\n")
    recipe = ("--default_hostfile", "hostfile_4", "--output_dir", "o")
    assert started(tmp_path, monkeypatch, *recipe)[2] == "hostfile"
    (tmp_path / "hostfile_4").write_text("".join(f"machine{n} slots=8\n" for n in range(4)))
    command = started(tmp_path, monkeypatch, *recipe, "--global_batch_size", "256")
    assert command[2] == "hostfile_4"
    assert command[command.index("--per_device_train_batch_size") + 1] == "8"
    assert started(tmp_path, monkeypatch, "--output_dir", "o")[2] == "hostfile"
    assert started(tmp_path, monkeypatch, *recipe, "--hostfile", "hostfile")[2] == "hostfile"
    assert "deepspeed" not in started(tmp_path, monkeypatch, *recipe, "--use_cpu", "True")


def test_published_four_machine_recipes():
    """Those whose published scripts have `--hostfile hostfile_4`."""
    recipes = {path.stem for path in RECIPES if "four_machines" in path.read_text()}
    assert recipes == {
        "stage_1_2_full_v13b_336_hr_768",
        "stage_1_2_full_mixtral_8x7b_336_hr_768",
        "stage_1_2_full_yi34b_336_hr_768",
        "stage_2_full_gemma_v2b_672_hr_1536",
        "stage_2_full_v7b_672_hr_1536",
        "stage_2_full_v13b_672_hr_1536",
        "stage_2_full_mixtral_8x7b_672_hr_1536",
        "stage_2_full_yi34b_672_hr_1536",
    }


def test_hostfile_of_this_machine(tmp_path, monkeypatch):
    (tmp_path / "hostfile").write_text("localhost slots=4\n")
    command = started(tmp_path, monkeypatch, "--global_batch_size", "8")
    assert command[2:5] == ["torch.distributed.run", "--standalone", "--nproc_per_node=4"]


def test_several_machines_with_torchrun(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    command = started(
        tmp_path, monkeypatch, "--nodes", "2", "--node_rank", "1", "--master_addr", "first"
    )
    assert command[3:8] == [
        "--nnodes=2",
        "--node_rank=1",
        "--master_addr=first",
        "--master_port=29500",
        "--nproc_per_node=8",
    ]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--output_dir", "o"], "no CUDA device is available.*--use_cpu True"),
        (["--use_cpu", "--learning_rat", "1"], "--learning_rat is not a flag.*--learning_rate"),
        (["--hostfile", "missing"], "missing: cannot be read"),
        (["--use_cpu", "--per_device_train_batch_size", "0"], "give a whole number from 1"),
        (
            ["--use_cpu", "--global_batch_size", "8", "--gradient_accumulation_steps", "2"],
            "--gradient_accumulation_steps follows",
        ),
        (["--nodes", "2"], "needs --master_addr"),
        (["--devices", "0"], "give a number from 1"),
    ],
)
def test_errors_before_the_start(tmp_path, monkeypatch, words, fault):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(MGMError, match=fault):
        started(tmp_path, monkeypatch, *words)


@pytest.mark.process
@pytest.mark.parametrize(
    "recipe",
    [RECIPES[0], *(pytest.param(recipe, marks=pytest.mark.slow) for recipe in RECIPES[1:])],
    ids=lambda path: path.stem,
)
def test_dry_run_of_every_recipe(recipe: Path, tmp_path):
    four = "four_machines" in recipe.read_text()
    hostfile = tmp_path / ("hostfile_4" if four else "hostfile")
    hostfile.write_text("".join(f"machine{n} slots=8\n" for n in range(4)))
    done = ended("bash", recipe, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stages = (1, 2) if "stage_1_2" in recipe.name else (2,)
    commands = [line for line in done.stdout.splitlines() if line.startswith("command: ")]
    assert len(commands) == len(stages)
    for stage, command in zip(stages, commands, strict=True):
        words = command.split()
        assert f"--hostfile {hostfile.name} " in command
        flags = launch.merge_flags(words[words.index("mgm.train") + 1 :])
        assert (
            int(flags["per_device_train_batch_size"][0])
            * int(flags["gradient_accumulation_steps"][0])
            * 32
            == GLOBAL[stage]
        )
        assert ("tune_mm_mlp_adapter" in flags) == (stage == 1)
        assert Path(tmp_path, flags["deepspeed"][0]).is_file()
        assert ("image_grid" in flags) == ("1536" in recipe.name)
    assert done.stdout.count("forecast:\n") == len(stages)


def test_published_entry_point_with_deepspeed_arguments(tmp_path):
    program = ROOT / "mgm/train/train_mem.py"
    done = ended(PYTHON, program, "--local_rank=0", "--output_dir", "x", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.endswith("--model_name_or_path is missing; see python -m mgm.train --help\n")


@pytest.mark.slow
def test_recipe_trains_both_stages(parts, data, tmp_path):
    """On a CPU with tiny parts; flags for both stages or one replace those of the recipe."""
    first, second = tmp_path / "first", tmp_path / "second"
    both = {
        "use_cpu": True,
        "global_batch_size": 4,
        "model_name_or_path": parts["language"],
        "vision_tower": parts["clip"],
        "vision_tower_aux": parts["convnext"],
        "image_size_aux": 128,
        "image_folder": data.parent,
        "model_max_length": 512,
        "dataloader_num_workers": 0,
    }
    stage1 = {"data_path": data.parent / "captions.json", "output_dir": first}
    stage2 = {
        "data_path": data,
        "output_dir": second,
        "pretrain_mm_mlp_adapter": first / "mm_projector.bin",
    }
    recipe = ROOT / "scripts/llama/train/stage_1_2_full_v7b_336_hr_768.sh"
    of_stages = ("--stage1", *words(stage1), "--stage2", *words(stage2))
    done = ended("bash", recipe, *words(both), *of_stages, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 samples per step = 1 devices x 4 samples x 1 accumulated" in done.stderr
    assert "--deepspeed is dropped" in done.stderr
    for folder, samples in ((first, 8), (second, 12)):
        state = json.loads((folder / "trainer_state.json").read_text())
        assert state["global_step"] == samples / 4
    ours, before = (load_file(folder / "model.safetensors") for folder in (second, first))
    assert torch.equal(*(w["vision_tower.embeddings.class_embedding"] for w in (ours, before)))
    head = next(name for name in ours if name.startswith("language_model"))
    assert not torch.equal(ours[head], before[head])
    assert json.loads((second / "config.json").read_text())["conversation"] == "v1"
