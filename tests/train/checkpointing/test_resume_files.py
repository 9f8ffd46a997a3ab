"""Every file that a run resumes from: missing, empty, cut short, or of another kind."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from mgm.errors import MGMError
from mgm.train.checkpointing.resume_files import check_files

STATE = {"global_step": 4, "max_steps": 8, "num_train_epochs": 1, "log_history": []}


def write_checkpoint(folder: Path) -> Path:
    """With the files of every kind of run: one process, FSDP, DeepSpeed, and a stream."""
    folder.mkdir()
    (folder / "trainer_state.json").write_text(json.dumps(STATE))
    (folder / "stream-0.json").write_text('{"workers": 1, "next": 0, "cursors": {}}')
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    for name in ("optimizer.pt", "optimizer-0.pt"):
        torch.save(optimizer.state_dict(), folder / name)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    torch.save(schedule.state_dict(), folder / "scheduler.pt")
    torch.save({"python": 1, "numpy": 2, "cpu": 3}, folder / "rng_state.pth")
    torch.save({"a": torch.ones(2)}, folder / "non_lora_trainables.bin")
    save_file({"a": torch.ones(2)}, folder / "adapter_model.safetensors")
    (folder / "global_step4").mkdir()
    torch.save({"a": 1}, folder / "global_step4" / "mp_rank_00_model_states.pt")
    (folder / "latest").write_text("global_step4")
    return folder


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint-4")


def training(**changes: object) -> SimpleNamespace:
    alone: dict[str, object] = {
        "process_index": 0,
        "world_size": 1,
        "deepspeed": None,
        "sharded": False,
    }
    alone["lora_enable"] = False
    return SimpleNamespace(**alone | changes)


DEEPSPEED = {"zero_optimization": {"stage": 2}}
ROLES = {
    "trainer_state.json": training(),
    "optimizer.pt": training(),
    "scheduler.pt": training(),
    "rng_state.pth": training(),
    "stream-0.json": training(),
    "optimizer-0.pt": training(sharded=True),
    "adapter_model.safetensors": training(lora_enable=True),
    "non_lora_trainables.bin": training(lora_enable=True),
    "latest": training(deepspeed=DEEPSPEED),
    "global_step4/mp_rank_00_model_states.pt": training(deepspeed=DEEPSPEED),
}


def spoil(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    elif how == "foreign" and file.suffix == ".pt" and "model_states" not in file.name:
        shutil.copy(file.parent / "rng_state.pth", file)
    elif how == "foreign" and file.suffix == ".json":
        file.write_text('{"model_type": "llama"}')
    else:
        spoiled = {"empty": b"", "half": content[: len(content) // 2], "foreign": b"what is this"}
        file.write_bytes(spoiled[how])


@pytest.mark.parametrize("how", ["missing", "empty", "half", "foreign"])
@pytest.mark.parametrize("role", ROLES)
def test_a_spoiled_file_is_named(checkpoint, role, how):
    flags = ROLES[role]
    check_files(checkpoint, flags, streaming=True)
    spoil(checkpoint / role, how)
    with pytest.raises(MGMError) as caught:
        check_files(checkpoint, flags, streaming=True)
    assert "\n" not in str(caught.value)
    names = (role, "latest") if "global_step4" in role else (role,)
    assert any(str(checkpoint / name) in str(caught.value) for name in names)


@pytest.mark.parametrize("content", ["[]", "null", '{"global_step": "4"}', '{"global_step": -1}'])
def test_a_state_without_its_numbers_is_named(checkpoint, content):
    (checkpoint / "trainer_state.json").write_text(content)
    with pytest.raises(MGMError, match=r"trainer_state.json: .*copy it again"):
        check_files(checkpoint, training(), streaming=False)


def test_a_state_of_another_step_is_named(checkpoint):
    (checkpoint / "trainer_state.json").write_text(json.dumps(STATE | {"global_step": 2}))
    with pytest.raises(MGMError, match="is of step 2, in a checkpoint of step 4"):
        check_files(checkpoint, training(), streaming=False)
    renamed = checkpoint.rename(checkpoint.with_name("best"))
    check_files(renamed, training(), streaming=False)


def test_random_numbers_of_another_process_are_not_taken(checkpoint):
    with pytest.raises(MGMError, match=r"rng_state_0.pth: is not there.*--save_only_model"):
        check_files(checkpoint, training(world_size=2), streaming=False)
