"""User errors are one line, and leave no partial files."""

import json
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from mgm.errors import MGMError
from mgm.train.__main__ import run_training
from tests.preloaded import PYTHON
from tests.train.conftest import words

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def flags(stage1_flags, tmp_path):
    return stage1_flags | {"output_dir": tmp_path / "out"}


def fault(flags) -> str:
    with pytest.raises(MGMError) as caught:
        run_training(words(flags))
    assert "\n" not in str(caught.value)
    assert not list(Path(flags["output_dir"]).glob("*.safetensors"))
    return str(caught.value)


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def sample(image: str | None = None) -> dict:
    question = {"from": "human", "value": "<image>\nWhich colour?"}
    turns = [question, {"from": "gpt", "value": "red"}]
    return {"id": 1, "conversations": turns} | ({} if image is None else {"image": image})


@pytest.mark.process
def test_command_prints_one_line_and_exits_with_2(tmp_path) -> None:
    flags = {"model_name_or_path": tmp_path / "none", "data_path": "x", "output_dir": tmp_path}
    command = [PYTHON, "-m", "mgm.train", *words(flags)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"error: {tmp_path}/none: no such folder; give a folder with config.json and weights\n"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "is not valid JSON"),
        ([{"id": 1}], "sample 0: has no conversation"),
        ([sample()], "sample 0: 1 <image> marker but 0 images"),
    ],
)
def test_invalid_data_files(flags, tmp_path, content, message) -> None:
    path = written(tmp_path / "data.json", content)
    actual = fault(flags | {"data_path": path})
    assert actual.startswith(str(path))
    assert message in actual


def test_stage_1_needs_images(flags, data, tmp_path) -> None:
    path = written(tmp_path / "data.json", json.loads(data.read_text())[-3:])
    assert "data.json: no sample has an image" in fault(flags | {"data_path": path})


def test_liger_kernels_without_a_gpu(flags, monkeypatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "needs a GPU" in fault(flags | {"use_liger_kernel": True})
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    assert "pip install 'mgm[liger]'" in fault(flags | {"use_liger_kernel": True})


def test_missing_image(flags, tmp_path) -> None:
    path = written(tmp_path / "data.json", [sample("gone.png")] * 2)
    message = fault(flags | {"data_path": path})
    assert message.startswith(f"{path}: sample 0, image 1 of 1: {tmp_path}/gone.png: there is no")


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_image(flags, tmp_path, workers) -> None:
    written(tmp_path / "bad.png", "no picture")
    path = written(tmp_path / "data.json", [sample("bad.png")] * 2)
    message = fault(flags | {"data_path": path, "dataloader_num_workers": workers})
    assert message.startswith(f"{path}: sample ")
    assert "bad.png: is not an image" in message


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_without_labels_after_truncation(stage2_flags, data, tmp_path, workers) -> None:
    changes = {"data_path": data.parent / "captions.json", "output_dir": tmp_path}
    changes |= {"model_max_length": 20, "dataloader_num_workers": workers}  # before any answer
    message = fault(stage2_flags | changes)
    assert message.startswith("none of 8 samples has a label within model_max_length 20")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "v9"}, "'v9'; choose one of"),
        ({"vision_tower": None}, "--vision_tower is missing"),
        ({"vision_tower": "nowhere"}, "nowhere/config.json: not found"),
        ({"vision_tower_aux": "nowhere"}, "nowhere/open_clip_config.json: not found"),
        ({"mm_projector_type": "mlp"}, "projector_type is 'mlp'; valid: linear, mlpNx_gelu"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio is 'anyres'; valid: pad, square"),
        ({"image_grid": 3}, "image_size_aux is 128; valid: a multiple of 48"),
        ({"model_max_length": 16}, "model_max_length is 16, but one image takes 16"),
        ({"pretrain_mm_mlp_adapter": "nowhere.bin"}, "nowhere.bin: not found"),
        ({"lr_multi": "model.mm_projector:2,mm:3"}, "both match model.mm_projector"),
        ({"use_liger_kernel": True}, "liger"),
        ({"report_to": "nothing"}, "nothing is not supported"),
        ({"resume_from_checkpoint": "nowhere"}, "nowhere: no complete checkpoint"),
    ],
)
def test_conflicting_flags(flags, changes, message) -> None:
    assert message in fault(flags | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mm_projector_type": "linear"}, "was made with mlp2x_gelu"),
        ({"mm_vision_select_layer": -1}, "was made with -2"),
        ({"mm_vision_select_feature": "cls_patch"}, "was made with patch"),
    ],
)
def test_geometry_of_a_trained_model_is_fixed(stage2_flags, tmp_path, changes, message) -> None:
    assert message in fault(stage2_flags | {"output_dir": tmp_path} | changes)


def test_output_folder_that_cannot_be_created(flags, tmp_path) -> None:
    written(tmp_path / "file", "")
    message = fault(flags | {"output_dir": tmp_path / "file" / "out"})
    assert message.startswith(f"--output_dir {tmp_path}/file/out: cannot be written to (Not a dir")


@pytest.mark.parametrize(
    ("version", "token"),
    [
        ("chatml_direct", "<|im_start|>"),
        ("llama_3", "<|start_header_id|>"),
        ("gemma", "<start_of_turn>"),
    ],
)
def test_vocabulary_without_a_token_of_the_template(flags, version, token):
    message = fault(flags | {"version": version})
    assert message.startswith(f"--version {version}: it contains {token}, which is not a token of ")


def test_tokenizer_with_more_tokens_than_the_model(flags, parts, tmp_path) -> None:
    for file in parts["language"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    extra = {"content": "<more>", "id": 262, "special": False}
    settings = ("single_word", "lstrip", "rstrip", "normalized")
    tokenizer["added_tokens"].append(extra | dict.fromkeys(settings, False))
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    message = fault(flags | {"model_name_or_path": tmp_path})
    assert "its tokenizer has id 262, its model 262 embeddings" in message


@contextmanager
def full_disk(size: int):
    """Limit file sizes to `size` bytes, which looks like a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def largest(folder: Path, name: str) -> int:
    return (folder / name).stat().st_size


def test_full_disk_while_saving_the_model(flags, stage1) -> None:
    output = flags["output_dir"]
    with full_disk(largest(stage1, "model.safetensors") - 1):
        message = fault(flags)
    assert message.startswith(f"{output}: could not be written (")
    assert list(output.iterdir()) == []


@pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors", "optimizer.pt"])
def test_full_disk_while_saving_a_checkpoint(flags, stage1, tmp_path_factory, file) -> None:
    output = flags["output_dir"]
    changes = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    whole = tmp_path_factory.mktemp("whole")
    run_training(words(flags | changes | {"output_dir": whole}))
    with full_disk(largest(whole / "checkpoint-2", file) - 1):
        message = fault(flags | changes)
    assert message.startswith(f"{output}/checkpoint-2")
    assert "could not be written (" in message
    assert list(output.iterdir()) == []


def test_checkpoint_of_other_parameters(flags, stage1, tmp_path) -> None:
    changes = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    run_training(words(flags | changes))
    more = {"tune_mm_mlp_adapter": None, "max_steps": 4}
    with pytest.raises(MGMError, match="--tune_mm_mlp_adapter was True, is False"):
        run_training(words(flags | changes | more))
    (flags["output_dir"] / "checkpoint-2" / "run.json").unlink()  # as written by another program
    with pytest.raises(MGMError, match="was made with other flags"):
        run_training(words(flags | changes | more))


def test_damaged_weights_of_stage_1(flags, tmp_path) -> None:
    torch.save({"model.mm_projector.0.weight": torch.zeros(2, 2)}, tmp_path / "a.bin")
    message = fault(flags | {"pretrain_mm_mlp_adapter": tmp_path / "a.bin"})
    assert "a.bin: weights do not fit the model" in message
