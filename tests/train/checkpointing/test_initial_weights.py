"""What a run starts from: relevant files, kinds of starts, and starts that it would overwrite."""

import json
from pathlib import Path

import pytest

from mgm.errors import MGMError
from mgm.train.args.validation import parse_arguments
from mgm.train.checkpointing.initial_weights import (
    check_initial_weights,
    initial_weights,
    initial_weights_digest,
)

ELSEWHERE = Path("elsewhere")


def digest(folder: Path) -> str | None:
    return initial_weights_digest(str(folder), ELSEWHERE)["sha256"]


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "model.safetensors").write_bytes(b"1" * 100)
    (made / "config.json").write_text('{"model_type": "llama"}')
    return made


@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors", "open_clip_pytorch_model.bin", "mm_projector.bin", "spiece.model"),
        *("config.json", "tokenizer_config.json", "tokenizer.json", "vocab.json", "merges.txt"),
        *("pytorch_model.bin.index.json", "preprocessor_config.json", "chat_template.jinja"),
    ],
)
def test_files_of_models_and_processors_count(folder, name):
    before = digest(folder)
    (folder / name).write_bytes(b"2" * 100)
    assert digest(folder) != before


@pytest.mark.parametrize(
    "name",
    [
        *("README.md", "results.json", "trainer_state.json", "training_args.bin", "optimizer.pt"),
        *("rng_state_1.pth", "scheduler.pt", "run.json", "all_results.json", "curves.png"),
    ],
)
def test_other_files_are_ignored(folder, name):
    before = digest(folder)
    (folder / name).write_bytes(b"2" * 100)
    assert digest(folder) == before


def test_hub_names_and_the_output_folder(folder, tmp_path, monkeypatch):
    assert initial_weights_digest("owner/name", ELSEWHERE) == {"path": "owner/name", "sha256": None}
    own = {"path": "--output_dir", "sha256": None}
    monkeypatch.chdir(tmp_path)
    for path in (folder, folder / "mm_projector.bin", "model", "./model/../model/"):
        assert initial_weights_digest(str(path), folder) == own


def arguments(base: Path, output: Path, *more: str):
    words = ["--model_name_or_path", str(base), "--data_path", "b", "--output_dir", str(output)]
    return parse_arguments([*words, "--report_to", "none", *more])


@pytest.mark.parametrize("value", [None, "none", "None", "tower"])
@pytest.mark.parametrize("kind", ["llama", "mgm", "gone"])
def test_tower_none_is_a_value(folder, kind, value):
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    base = folder.parent / "gone" if kind == "gone" else folder
    flags = () if value is None else ("--vision_tower_aux", value)
    weights = initial_weights(arguments(base, ELSEWHERE, *flags))
    name = "--vision_tower_aux"
    if value == "tower":
        assert weights[name] == {"path": "tower", "sha256": None}
    elif value is None and kind == "gone":
        assert name not in weights
    elif value is None and kind == "mgm":
        assert weights[name] is None
    else:
        assert weights[name] == {"path": "none", "sha256": None}


@pytest.mark.parametrize(
    ("flag", "inner"),
    [
        ("pretrain_mm_mlp_adapter", "mm_projector.bin"),
        ("pretrain_mm_mlp_adapter", "."),
        ("lora_weight_path", "."),
        ("vision_tower", "."),
        ("vision_tower_aux", "."),
    ],
)
def test_start_from_a_checkpoint_of_the_output(folder, tmp_path, flag, inner):
    output = tmp_path / "out"
    more = ("--lora_enable", "True") if flag == "lora_weight_path" else ()
    with pytest.raises(MGMError, match=rf"--{flag} .*: lies in a checkpoint of --output_dir"):
        check_initial_weights(
            arguments(folder, output, f"--{flag}", str(output / "checkpoint-2" / inner), *more)
        )
    other = tmp_path / "other" / "checkpoint-2" / inner
    check_initial_weights(arguments(folder, output, f"--{flag}", str(other), *more))
    with pytest.raises(MGMError, match=r"--model_name_or_path .*: lies in a checkpoint"):
        check_initial_weights(arguments(output / "checkpoint-2", output))
    check_initial_weights(arguments(output, output))
