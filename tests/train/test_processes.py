"""Several CPU processes: the losses equal those of one process, and no batch deadlocks."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

from mgm.train.__main__ import run_training
from mgm.train.checkpointing.checkpoints import STATE_FILE
from tests.model.tiny import TEXT
from tests.preloaded import PYTHON
from tests.train.conftest import words

ROOT = Path(__file__).parents[2]
LIMIT = 240  # seconds after which deadlocked processes are killed


def train_in_processes(
    flags: dict[str, object], program: Sequence[str] = ("--module", "mgm.train")
) -> subprocess.CompletedProcess[str]:
    """Run `python -m mgm.train`, or another program, in two processes."""
    return subprocess.run(
        [
            *(PYTHON, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node=2", *program),
            *words(flags | {"ddp_backend": "gloo", "ddp_timeout": 120}),
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "DS_SKIP_CUDA_CHECK": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def losses(folder: Path, name: str = "loss") -> list[float]:
    state = json.loads((folder / STATE_FILE).read_text())
    return [entry[name] for entry in state["log_history"] if name in entry]


@pytest.fixture(scope="module")
def flags(stage2_flags) -> dict[str, object]:
    """Text-only samples, one-image and two-image samples alternate, so that ranks have different
    kinds.
    """
    return stage2_flags | {
        "per_device_train_batch_size": 1,
        "group_by_modality_length": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "learning_rate": 1e-3,
    }


@pytest.fixture(scope="module")
def alone(flags, tmp_path_factory) -> Path:
    """The output folder of one process with the same global batch."""
    folder = tmp_path_factory.mktemp("alone")
    run_training(words(flags | {"per_device_train_batch_size": 2, "output_dir": folder}))
    return folder


def check_same(folder: Path, alone: Path) -> None:
    assert losses(folder) == pytest.approx(losses(alone), abs=1e-4)
    ours, theirs = (load_file(output / "model.safetensors") for output in (folder, alone))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.process
def test_two_processes_equal_one(flags, alone, tmp_path):
    done = train_in_processes(flags | {"output_dir": tmp_path})
    assert done.returncode == 0, done.stderr[-3000:]
    check_same(tmp_path, alone)


@pytest.mark.slow
def test_losses_of_data_sets_over_all_processes(flags, data, tmp_path):
    samples = json.loads(data.read_text())
    for name, chosen in (("images", samples[:9]), ("texts", samples[9:])):
        (tmp_path / f"{name}.json").write_text(json.dumps(chosen))
    mixture = tmp_path / "mixture.json"
    sources = [{"path": f"{name}.json"} for name in ("images", "texts")]
    mixture.write_text(json.dumps({"datasets": sources}))
    flags = flags | {"data_path": mixture, "image_folder": data.parent}
    run_training(
        words(flags | {"per_device_train_batch_size": 2, "output_dir": tmp_path / "alone"})
    )
    done = train_in_processes(flags | {"output_dir": tmp_path / "two"})
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("loss/images", "loss/texts"):
        ours = losses(tmp_path / "two", name)
        assert ours
        assert ours == pytest.approx(losses(tmp_path / "alone", name), abs=1e-4)


@pytest.mark.slow
def test_gradient_accumulation_equals_one_batch(flags, alone, tmp_path):
    run_training(words(flags | {"gradient_accumulation_steps": 2, "output_dir": tmp_path}))
    check_same(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"])
def test_zero_equals_one_process(flags, alone, tmp_path, config):
    pytest.importorskip("deepspeed")
    file = zero_settings(config, tmp_path)
    done = train_in_processes(flags | {"output_dir": tmp_path, "deepspeed": file})
    assert done.returncode == 0, done.stderr[-3000:]
    check_same(tmp_path, alone)


def zero_settings(config: str, folder: Path) -> Path:
    """The project's DeepSpeed settings, or those that a user would write."""
    file = ROOT / "scripts" / f"{config}.json"
    if file.is_file():
        return file
    base, change = {
        "zero1": ("zero2", {"stage": 1}),
        "zero3_offload": (
            "zero3",
            {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}},
        ),
    }[config]
    settings = json.loads((ROOT / "scripts" / f"{base}.json").read_text())
    settings["zero_optimization"] |= change
    made = folder / f"{config}.json"
    made.write_text(json.dumps(settings))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2], ids=["", "accumulated"])
def test_fsdp_equals_one_process(flags, alone, tmp_path, steps):
    more = {"fsdp": "full_shard", "gradient_accumulation_steps": steps, "output_dir": tmp_path}
    if steps == 2:
        more |= {"num_train_epochs": 2}
        expected = tmp_path / "alone"
        single = {"per_device_train_batch_size": 2, "output_dir": expected}
        run_training(words(flags | more | {"fsdp": None} | single))
    done = train_in_processes(flags | more)
    assert done.returncode == 0, done.stderr[-3000:]
    check_same(tmp_path, expected if steps == 2 else alone)
    ours, theirs = ((folder / "config.json").read_text() for folder in (tmp_path, alone))
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize("form", ["fsdp", "zero3"])
@pytest.mark.parametrize("start", ["stage 2", "parts", "adapter"])
def test_only_rank_0_reads_weights(flags, stage1_flags, tmp_path, start, form):
    """The other ranks have meta tensors until they get their shards."""
    if start == "parts":
        flags = stage1_flags | {"per_device_train_batch_size": 1}
    elif start == "adapter":
        flags = flags | {"lora_enable": True, "lora_r": 2, "lora_alpha": 4, "lora_dropout": 0}
    call = "apply_fsdp" if form == "fsdp" else "partition_parameters"
    script = tmp_path / "train.py"
    script.write_text(
        "import torch.distributed as dist\n"
        "from pathlib import Path\n"
        "from mgm.errors import run_command\n"
        "from mgm.train import __main__ as program, trainer\n"
        f"kept = trainer.{call}\n"
        "def spied(model, *rest):\n"
        "    devices = {part.device.type for part in model.language_model.model.parameters()}\n"
        f"    note = Path({str(tmp_path)!r}) / f'{{dist.get_rank()}}'\n"
        "    note.write_text(' '.join(sorted(devices)))\n"
        "    kept(model, *rest)\n"
        "    assert not any(part.is_meta for part in (*model.parameters(), *model.buffers()))\n"
        f"trainer.{call} = spied\n"
        "run_command(program.main)\n"
    )
    single, divided = tmp_path / "single", tmp_path / "divided"
    flags = flags | {"output_dir": divided, "max_steps": 2, "num_train_epochs": 1}
    more: dict[str, object] = {"fsdp": "full_shard"}
    if form == "zero3":
        pytest.importorskip("deepspeed")
        more = {"deepspeed": zero_settings("zero3", tmp_path)}
    done = train_in_processes(flags | more, program=(str(script),))
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "0").read_text() == "cpu"
    assert "meta" in (tmp_path / "1").read_text()
    run_training(words(flags | {"output_dir": single, "per_device_train_batch_size": 2}))
    assert len(losses(divided)) == 2
    assert losses(divided) == pytest.approx(losses(single), rel=1e-4)
    (name,) = (file.name for file in single.glob("*.safetensors"))
    ours, theirs = (load_file(folder / name) for folder in (divided, single))
    assert {key: part.shape for key, part in ours.items()} == {
        key: part.shape for key, part in theirs.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("form", ["zero3", "fsdp"])
def test_expert_weights_are_sharded(flags, stage1_flags, tmp_path, form):
    """Tokens of two ranks are routed to different experts, without a deadlock."""
    folder = tmp_path / "mixtral"
    shutil.copytree(Path(str(stage1_flags["model_name_or_path"])), folder)
    (folder / "model.safetensors").unlink()
    vocabulary = len(AutoTokenizer.from_pretrained(folder))
    torch.manual_seed(0)
    text = TEXT | {"vocab_size": vocabulary, "num_local_experts": 4, "num_experts_per_tok": 1}
    MixtralForCausalLM(MixtralConfig(**text)).save_pretrained(folder)
    names = ("vision_tower", "vision_tower_aux", "mm_projector_type", "mm_vision_select_layer")
    start = {name: stage1_flags[name] for name in names}
    flags = flags | start | {"model_name_or_path": folder, "image_size_aux": 128}
    run_training(
        words(flags | {"per_device_train_batch_size": 2, "output_dir": tmp_path / "alone"})
    )
    more: dict[str, object] = {"fsdp": "full_shard"}
    if form == "zero3":
        pytest.importorskip("deepspeed")
        more = {"deepspeed": zero_settings("zero3", tmp_path)}
    done = train_in_processes(flags | more | {"output_dir": tmp_path / "two"})
    assert done.returncode == 0, done.stderr[-3000:]
    check_same(tmp_path / "two", tmp_path / "alone")


@pytest.mark.slow
def test_resume_is_exact_with_fsdp(flags, tmp_path):
    saving = {"fsdp": "full_shard", "save_strategy": "steps", "save_steps": 2}
    flags = flags | saving | {"output_dir": tmp_path}
    check_goes_on(flags, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["zero2", "zero3"])
def test_resume_is_exact_with_zero(flags, tmp_path, config):
    pytest.importorskip("deepspeed")
    file = ROOT / "scripts" / f"{config}.json"
    saving = {"deepspeed": file, "save_strategy": "steps", "save_steps": 2, "output_dir": tmp_path}
    check_goes_on(flags | saving, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["fsdp", "zero3"])
def test_resume_of_an_adapter_is_exact(flags, tmp_path, form):
    more: dict[str, object] = {"fsdp": "full_shard"}
    if form == "zero3":
        pytest.importorskip("deepspeed")
        more = {"deepspeed": zero_settings("zero3", tmp_path)}
    lora = {"lora_enable": True, "lora_r": 2, "lora_alpha": 4, "lora_dropout": 0}
    saving = {"save_strategy": "steps", "save_steps": 2, "output_dir": tmp_path}
    check_goes_on(flags | more | lora | saving, tmp_path)


def check_goes_on(flags: dict[str, object], folder: Path) -> None:
    """Check that a run resumed from its first checkpoint ends with the same weights."""
    done = train_in_processes(flags)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = folder.glob("*model.safetensors")  # of an adapter, whose file has another name
    straight = load_file(file)
    for checkpoint in folder.glob("checkpoint-*"):
        if checkpoint.name != "checkpoint-2":
            shutil.rmtree(checkpoint)
    done = train_in_processes(flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming from" in done.stderr
    resumed = load_file(file)
    assert resumed.keys() == straight.keys()
    for name, tensor in resumed.items():
        assert torch.equal(tensor, straight[name]), name
