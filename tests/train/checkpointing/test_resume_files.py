"""Files of a checkpoint: missing, empty, truncated, or of another type."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from mgm.errors import MGMError
from mgm.train.checkpointing.file_digests import file_digests
from mgm.train.checkpointing.resume_files import check_resume_files, read_trainer_state
from mgm.train.checkpointing.run_fingerprint import check_flags

STATE = {"global_step": 4, "max_steps": 8, "num_train_epochs": 1, "log_history": []}
MODEL_STATES = "global_step4/mp_rank_00_model_states.pt"
OPTIM_STATES = "global_step4/zero_pp_rank_0_mp_rank_00_optim_states.pt"


def write_checkpoint(folder: Path) -> Path:
    """Write a checkpoint with the files of all kinds of runs: one process, FSDP, DeepSpeed,
    streaming.
    """
    folder.mkdir()
    (folder / "trainer_state.json").write_text(json.dumps(STATE))
    (folder / "stream-0.json").write_text('{"workers": 1, "next": 0, "cursors": {}}')
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    for name in ("optimizer.pt", "optimizer-0.pt"):
        torch.save(optimizer.state_dict(), folder / name)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    schedule.last_epoch = 4
    torch.save(schedule.state_dict(), folder / "scheduler.pt")
    torch.save({"python": 1, "numpy": 2, "cpu": 3}, folder / "rng_state.pth")
    torch.save({"a": torch.ones(2)}, folder / "non_lora_trainables.bin")
    save_file({"a": torch.ones(2)}, folder / "adapter_model.safetensors")
    (folder / "global_step4").mkdir()
    torch.save({"global_steps": 4}, folder / MODEL_STATES)
    torch.save({"optimizer_state_dict": {}}, folder / OPTIM_STATES)
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
        "use_fsdp": False,
        "fp16": False,
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
    "optimizer-0.pt": training(use_fsdp=True),
    "adapter_model.safetensors": training(lora_enable=True),
    "non_lora_trainables.bin": training(lora_enable=True),
    "latest": training(deepspeed=DEEPSPEED),
    MODEL_STATES: training(deepspeed=DEEPSPEED),
    OPTIM_STATES: training(deepspeed=DEEPSPEED),
}


def spoil(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    elif how == "foreign" and file.suffix == ".pt":
        torch.save({"python": 1, "numpy": 2, "cpu": 3}, file)
    elif how == "foreign" and file.suffix == ".json":
        file.write_text('{"model_type": "llama"}')
    else:
        spoiled = {"empty": b"", "half": content[: len(content) // 2], "foreign": b"what is this"}
        file.write_bytes(spoiled[how])


@pytest.mark.parametrize("how", ["missing", "empty", "half", "foreign"])
@pytest.mark.parametrize("role", ROLES)
def test_damaged_file(checkpoint, role, how):
    flags = ROLES[role]
    check_resume_files(checkpoint, flags, streaming=True)
    spoil(checkpoint / role, how)
    with pytest.raises(MGMError) as caught:
        check_resume_files(checkpoint, flags, streaming=True)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{checkpoint / role}: ")
    assert (
        how == "missing"
        or role.endswith(".json")
        or f"delete {checkpoint} to resume" in str(caught.value)
    )


@pytest.mark.parametrize("role", ROLES)
def test_replaced_file(checkpoint, role):
    """By a valid file, which only the digest distinguishes."""
    digests = file_digests(checkpoint)
    (checkpoint / "run.json").write_text(json.dumps({"processes": 1, "files": digests}))
    check_resume_files(checkpoint, ROLES[role], streaming=True)
    file = checkpoint / role
    if file.suffix in (".pt", ".pth", ".bin"):
        torch.save(torch.load(file, weights_only=True) | {"more": 1}, file)
    elif file.suffix == ".safetensors":
        save_file({"a": torch.zeros(2)}, file)
    else:
        file.write_text(file.read_text() + "\n")
    with pytest.raises(MGMError) as caught:
        check_resume_files(checkpoint, ROLES[role], streaming=True)
    assert str(caught.value).startswith(f"{file}: changed since the checkpoint was made")


def test_several_replaced_files(checkpoint):
    files = [checkpoint / name for name in ("optimizer.pt", "scheduler.pt")]
    digests = dict.fromkeys((file.name for file in files), "0" * 64)
    (checkpoint / "run.json").write_text(json.dumps({"processes": 1, "files": digests}))
    with pytest.raises(MGMError, match=f"^{files[0]}, {files[1]}: changed since"):
        check_resume_files(checkpoint, training(), streaming=False)
    (checkpoint / "run.json").write_text('{"processes": 1, "files": []}')
    with pytest.raises(MGMError, match=r"run.json: is damaged"):
        check_resume_files(checkpoint, training(), streaming=False)


OF_RESULT = ("model.safetensors", "mm_projector.bin", "config.json", "generation_config.json")
OF_PROCESSOR = ("tokenizer_config.json", "additional_chat_templates/one.jinja")
OF_STEPS = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", "stream-0.json")
EVERY = {*OF_RESULT, *OF_PROCESSOR, *OF_STEPS, "zero_to_fp32.py"}
# Whether an adapter is trained, whether the run is finished, and which files are required.
NEEDED = [
    (False, False, {*OF_RESULT, *OF_PROCESSOR, *OF_STEPS}),
    (False, True, {*OF_RESULT, *OF_PROCESSOR}),
    (True, False, {*OF_RESULT[:2], *OF_STEPS}),  # processor and config come from the base
    (True, True, {*OF_RESULT}),
]


@pytest.mark.parametrize(("adapter", "finished", "needed"), NEEDED)
def test_missing_file(checkpoint, adapter, finished, needed):
    for name in EVERY - {*OF_STEPS} | {"scaler.pt"}:
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_text("content")
    digests = file_digests(checkpoint)
    (checkpoint / "run.json").write_text(json.dumps({"processes": 1, "files": digests}))
    refused = set()
    for name in EVERY:
        file = checkpoint / name
        file.rename(checkpoint.parent / "away")
        try:
            check_resume_files(checkpoint, training(lora_enable=adapter), True, finished)
        except MGMError as error:
            refused.add(name if str(error).startswith(f"{file}: ") else str(error))
        (checkpoint.parent / "away").rename(file)
    assert refused == needed
    check_resume_files(checkpoint, training(lora_enable=adapter), True, finished)


@pytest.mark.parametrize("how", ["folder", "link"])
def test_missing_list_of_files(checkpoint, how):
    file = checkpoint / "run.json"
    if how == "folder":
        file.mkdir()
    else:
        file.symlink_to("gone")
    kind = "is a folder, not a file;" if how == "folder" else "is a broken link; check the path, or"
    for check in (
        lambda: check_resume_files(checkpoint, training(), False),
        lambda: check_flags({}, file.parent),
    ):
        with pytest.raises(MGMError, match=f"^{file}: {kind} copy it again"):
            check()


def test_base_of_an_adapter_may_move(checkpoint):
    (checkpoint / "adapter_config.json").write_text("{}")
    assert "adapter_config.json" not in file_digests(checkpoint)


@pytest.mark.parametrize("step", [1, 3, 5])
def test_scheduler_step_without_digests(checkpoint, step):
    file = checkpoint / "scheduler.pt"
    torch.save(torch.load(file, weights_only=True) | {"last_epoch": step}, file)
    with pytest.raises(MGMError, match=f"scheduler.pt: is of step {step}, in a .* of step 4"):
        check_resume_files(checkpoint, training(), streaming=False)
    if step < 4:  # the gradient scaler skips steps
        check_resume_files(checkpoint, training(fp16=True), streaming=False)


def test_optimizer_step_without_digests(checkpoint, caplog):
    for step in (4, 3, 5):
        state = {"state": {0: {"step": torch.tensor(float(step))}}, "param_groups": []}
        torch.save(state, checkpoint / "optimizer.pt")
        if step < 5:
            check_resume_files(checkpoint, training(), streaming=False)
            assert ("was updated in 3 of 4 steps" in caplog.text) == (step == 3)
    with pytest.raises(MGMError, match=r"optimizer.pt: is of step 5, in a .* of step 4"):
        check_resume_files(checkpoint, training(), streaming=False)


def test_deepspeed_files_by_stage_and_rank(checkpoint):
    inside = checkpoint / "global_step4"
    without_zero = training(deepspeed={"zero_optimization": {"stage": 0}})
    (checkpoint / OPTIM_STATES).rename(inside / f"bf16_{Path(OPTIM_STATES).name}")
    check_resume_files(checkpoint, training(deepspeed=DEEPSPEED), streaming=False)
    shutil.rmtree(inside)
    inside.mkdir()
    torch.save({"global_steps": 4}, checkpoint / MODEL_STATES)
    check_resume_files(checkpoint, without_zero, streaming=False)
    second = training(deepspeed={"zero_optimization": {"stage": 3}}, process_index=1)
    with pytest.raises(MGMError, match=r"zero_pp_rank_1_mp_rank_00_model_states.pt: is missing"):
        check_resume_files(checkpoint, second, streaming=False)


@pytest.mark.parametrize("content", ["[]", "null", "{}"])
def test_incomplete_trainer_state(checkpoint, content):
    (checkpoint / "trainer_state.json").write_text(content)
    with pytest.raises(MGMError, match=r"trainer_state.json: .*copy it again"):
        check_resume_files(checkpoint, training(), streaming=False)


@pytest.mark.parametrize(
    "changed",
    [
        *(
            {"global_step": "4"},
            {"global_step": -1},
            {"max_steps": None},
            {"num_train_epochs": 1.5},
        ),
        *({"log_history": [1]}, {"log_history": {}}, {"log_history": [{"loss": 1.0}]}),
        *({"log_history": [{"step": 1, "loss": "x"}]}, {"stateful_callbacks": []}),
        *({"save_steps": "x"}, {"logging_steps": None}, {"eval_steps": -1}, {"total_flos": "x"}),
        *({"epoch": None}, {"num_input_tokens_seen": []}, {"train_batch_size": "2"}),
        *({"best_metric": "x"}, {"best_global_step": 1.5}, {"best_model_checkpoint": 1}),
        *({"is_world_process_zero": 1}, {"trial_name": 1}, {"trial_params": []}, {"more": 1}),
    ],
    ids=str,
)
def test_trainer_state_of_wrong_types(checkpoint, changed):
    (checkpoint / "trainer_state.json").write_text(json.dumps(STATE | changed))
    with pytest.raises(MGMError) as caught:
        read_trainer_state(checkpoint)
    assert str(caught.value).startswith(f"{checkpoint / 'trainer_state.json'}: ")
    assert f"copy it again, or delete {checkpoint} to resume" in str(caught.value)


def test_nan_in_the_log(checkpoint):
    """Overflowing gradients are logged as NaN."""
    entry = '{"step": 1, "loss": 2, "grad_norm": NaN, "eval_loss": Infinity, "note": "x"}'
    content = json.dumps(STATE)[:-2] + f"{entry}]}}"
    (checkpoint / "trainer_state.json").write_text(content)
    assert read_trainer_state(checkpoint).log_history[0]["loss"] == 2


def test_trainer_state_of_another_step(checkpoint):
    (checkpoint / "trainer_state.json").write_text(json.dumps(STATE | {"global_step": 2}))
    with pytest.raises(MGMError, match="is of step 2, in a checkpoint of step 4"):
        check_resume_files(checkpoint, training(), streaming=False)
    renamed = checkpoint.rename(checkpoint.with_name("best"))
    schedule = torch.load(renamed / "scheduler.pt", weights_only=True)
    torch.save(schedule | {"last_epoch": 2}, renamed / "scheduler.pt")
    check_resume_files(renamed, training(), streaming=False)


def test_rng_state_of_another_rank(checkpoint):
    with pytest.raises(MGMError, match=r"rng_state_0.pth: is missing.*--save_only_model"):
        check_resume_files(checkpoint, training(world_size=2), streaming=False)
