"""Two runs of any two kinds into one folder: the last saved model is what loads."""

import itertools
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from _pytest.mark import ParameterSet

from mgm.data.layout_conversion import convert
from mgm.data.processing_mgm import MGMProcessor
from mgm.engine.engine import Engine
from mgm.errors import MGMError
from mgm.model.loading import load_model, save_model
from mgm.train.__main__ import run_training
from mgm.train.merge import main as merge
from mgm.train.trainer import MGMTrainer
from tests.golden_files import golden
from tests.train.conftest import words
from tests.train.test_processes import train_in_processes, zero_settings

ADAPTERS = ("lora", "dora", "qlora")
TRAINED = ("stage1", "full", *ADAPTERS)
LIBRARY = ("engine", "save_model", "save_pretrained")
COMMANDS = ("native", "published", "merged")  # which need new folders
SEED = dict(zip((*TRAINED, *LIBRARY), itertools.count(1), strict=False))

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def trainer(stage1_flags, stage2_flags, tmp_path_factory) -> Callable[[str], MGMTrainer]:
    """A trainer of a finished run of a kind, with unique weights."""

    @cache
    def made(kind: str) -> MGMTrainer:
        if kind == "qlora":
            pytest.importorskip("bitsandbytes")
        flags = {**(stage1_flags if kind == "stage1" else stage2_flags), "seed": SEED[kind]}
        flags |= {"max_steps": 1, "save_strategy": "no", "learning_rate": 0.1}
        if kind in ADAPTERS:
            flags |= {"lora_enable": True, "use_dora": kind == "dora", "lora_r": 4}
            flags |= {"bits": 4 if kind == "qlora" else 16}
        return run_training(words(flags | {"output_dir": tmp_path_factory.mktemp(kind)}))

    return made


@pytest.fixture(scope="module")
def saved(trainer) -> Callable[[str], Path]:
    """A folder with a model of one kind."""
    return lambda kind: Path(trainer(kind).args.output_dir)


def library(kind: str, lora: Path, folder: Path) -> None:
    """Save the merged model of `lora` by the library function."""
    model, processor = load_model(lora), MGMProcessor.from_pretrained(lora)
    if kind == "engine":
        Engine(model, processor).save_pretrained(folder)
        return
    save_model(model, folder) if kind == "save_model" else model.save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.fixture
def write(trainer, saved, monkeypatch) -> Callable[[str, Path], None]:
    def write(kind: str, folder: Path) -> None:
        if kind in TRAINED:
            trainer(kind).save_model(str(folder))
        elif kind in LIBRARY:
            library(kind, saved("lora"), folder)
        elif kind == "native":
            convert(golden("work_dirs/MGM/MGM-7B"), folder, "native")
        elif kind == "published":
            shutil.copytree(golden("work_dirs/MGM/MGM-7B"), folder, copy_function=shutil.copyfile)
        else:
            monkeypatch.setattr("sys.argv", ["merge", str(saved("lora")), str(folder)])
            merge()

    return write


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    model = load_model(folder)
    torch.manual_seed(0)
    config = model.config
    image = [config.image_token_id] * config.image_tokens_per_image
    side = (1, 3, config.image_size_aux, config.image_size_aux)
    return model(
        input_ids=torch.tensor([[1, *range(10, 20), *image, *range(20, 30)]]),
        pixel_values_aux=torch.randint(0, 256, side, dtype=torch.uint8),
    ).logits


def pairs() -> list[ParameterSet]:
    """All pairs of kinds; the default tier has each kind once as first and as second."""
    pairs_of_kinds = []
    firsts, seconds = (*TRAINED, *COMMANDS, "save_model"), (*TRAINED, *LIBRARY)
    for (i, first), (j, second) in itertools.product(enumerate(firsts), enumerate(seconds)):
        marks = [pytest.mark.heavy] if "qlora" in (first, second) else []
        slow = (i + 1) % len(seconds) != j and (first, second) != ("lora", "full")
        pairs_of_kinds.append(
            pytest.param(first, second, marks=[pytest.mark.slow] if slow else marks)
        )
    return pairs_of_kinds


@pytest.mark.parametrize(("first", "second"), pairs())
def test_folder_has_the_last_saved_model(write, saved, tmp_path, first, second) -> None:
    folder = tmp_path / "folder"
    write(first, folder)
    for name in ("added_tokens.json", "notes.txt"):  # files of another tokenizer, and of the user
        (folder / name).write_text('{"<x>": 7}')
    write(second, folder)
    alone = saved(second if second in TRAINED else "lora")
    assert torch.allclose(logits(folder), logits(alone), atol=1e-4)
    assert (folder / "notes.txt").exists()
    left = {file.name for file in folder.iterdir()} - {"notes.txt", "README.md"}
    if second in TRAINED:
        assert left == {file.name for file in alone.iterdir()} - {"curves.png"}
    vocabularies = [
        MGMProcessor.from_pretrained(at).tokenizer.get_vocab() for at in (folder, alone)
    ]
    assert second == "save_pretrained" or vocabularies[0] == vocabularies[1]


@pytest.mark.parametrize("first", ["stage1", "full", "lora"])
def test_commands_need_new_folders(write, saved, tmp_path, first) -> None:
    folder = tmp_path / "folder"
    write(first, folder)
    for second in ("native", "merged"):
        with pytest.raises(MGMError, match="exists already; name a new folder"):
            write(second, folder)
    assert torch.equal(logits(folder), logits(saved(first)))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("stage1", "full"),
        ("stage1", "lora"),
        ("full", "lora"),
        ("lora", "full"),
        ("lora", "stage1"),
    ],
)
def test_two_kinds_in_one_folder(saved, tmp_path, first, second) -> None:
    """As after a copy, or a program that removes no old files."""
    for kind in (first, second):
        shutil.copytree(saved(kind), tmp_path, dirs_exist_ok=True)
    with pytest.raises(MGMError, match=r"has two models, .* and .*; delete .*, or .*") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


def steps(folder: Path) -> set[str]:
    """Names of the checkpoints in an output folder, and of those of earlier runs."""
    return {str(checkpoint.relative_to(folder)) for checkpoint in folder.rglob("checkpoint-*")}


def make_checkpoint(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text('{"global_step": 100}')


SAVING = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "max_steps": 2}


def test_save_total_limit_counts_own_checkpoints(stage2_flags, tmp_path, caplog) -> None:
    flags = stage2_flags | SAVING | {"output_dir": tmp_path}
    make_checkpoint(tmp_path / "checkpoint-100")
    run_training(words(flags | {"resume_from_checkpoint": False}))
    assert steps(tmp_path) == {"checkpoint-2", "earlier_run_1/checkpoint-100"}
    assert "checkpoint-100 of an earlier run moved to" in caplog.text
    run_training(words(flags | {"max_steps": 3}))  # resumes from its own checkpoint
    assert steps(tmp_path) == {"checkpoint-3", "earlier_run_1/checkpoint-100"}


def test_resumed_run_moves_later_checkpoints(stage2_flags, tmp_path) -> None:
    flags = stage2_flags | SAVING | {"output_dir": tmp_path, "max_steps": 1}
    run_training(words(flags))
    make_checkpoint(tmp_path / "checkpoint-100")
    more = {"resume_from_checkpoint": tmp_path / "checkpoint-1", "max_steps": 2}
    run_training(words(flags | more | {"save_total_limit": 2}))
    assert steps(tmp_path) == {"checkpoint-1", "checkpoint-2", "earlier_run_1/checkpoint-100"}


def test_refused_run_moves_no_files(stage2_flags, tmp_path) -> None:
    """For every check, including the last one, at loading of the optimizer."""
    flags = stage2_flags | SAVING | {"output_dir": tmp_path, "on_bad_sample": "skip"}
    run_training(words(flags))
    checkpoint = tmp_path / "checkpoint-2"
    make_checkpoint(tmp_path / "checkpoint-100")
    (tmp_path / "quarantine.jsonl").write_text("{}\n")
    before = contents(tmp_path)

    def refused(**changes: object) -> str:
        with pytest.raises(MGMError) as caught:
            run_training(words(flags | {"resume_from_checkpoint": checkpoint} | changes))
        assert contents(tmp_path) == before
        return str(caught.value)

    assert "has done 2 steps, and this run would have 1" in refused(max_steps=1)
    assert "--learning_rate was 0.01, is 0.5" in refused(learning_rate=0.5)
    (checkpoint / "run.json").unlink()  # a check that would have raised before
    before = contents(tmp_path)
    assert "train other parameters" in refused(max_steps=3, freeze_backbone=True)
    missing = {"resume_from_checkpoint": False, "data_path": "nowhere.json"}
    assert "nowhere.json" in refused(**missing)


def contents(folder: Path) -> dict[str, bytes]:
    """Contents of all files in a folder and its subfolders."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_run_resumed_from_elsewhere_moves_all_checkpoints(stage2_flags, tmp_path) -> None:
    flags = stage2_flags | SAVING | {"max_steps": 1}
    run_training(words(flags | {"output_dir": tmp_path / "first"}))
    make_checkpoint(tmp_path / "second" / "checkpoint-1")
    more = {"resume_from_checkpoint": tmp_path / "first/checkpoint-1", "max_steps": 2}
    run_training(words(flags | more | {"output_dir": tmp_path / "second"}))
    assert steps(tmp_path / "second") == {"checkpoint-2", "earlier_run_1/checkpoint-1"}
    assert steps(tmp_path / "first") == {"checkpoint-1"}


@pytest.mark.slow
@pytest.mark.parametrize("divided", ["ddp", "zero2", "fsdp"])
@pytest.mark.parametrize(("first", "second"), [("lora", "full"), ("full", "dora")])
def test_two_processes(stage2_flags, tmp_path, divided, first, second) -> None:
    folder = tmp_path / "folder"
    for kind in (first, second):
        flags = stage2_flags | SAVING | {"resume_from_checkpoint": False, "output_dir": folder}
        flags |= {"lora_enable": kind in ADAPTERS, "use_dora": kind == "dora", "lora_r": 4}
        flags |= {"per_device_train_batch_size": 1}
        if divided == "zero2":
            pytest.importorskip("deepspeed")
            flags["deepspeed"] = zero_settings("zero2", tmp_path)
        elif divided == "fsdp":
            flags["fsdp"] = "full_shard"
        done = train_in_processes(flags)
        assert done.returncode == 0, done.stderr[-3000:]
    assert steps(folder) == {"checkpoint-2", "earlier_run_1/checkpoint-2"}
    assert torch.allclose(logits(folder), logits(folder / "checkpoint-2"), atol=1e-5)
    assert (folder / "adapter_config.json").exists() == (second in ADAPTERS)
