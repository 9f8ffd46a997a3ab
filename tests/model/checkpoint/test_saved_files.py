"""One model per folder: replacement by another kind, killed writers, folders with two models."""

import itertools
from pathlib import Path

import pytest
import torch

from mgm.errors import MGMError
from mgm.model.checkpoint.components import save_stage1
from mgm.model.checkpoint.saved_files import (
    check_one_model,
    check_stage1,
    finish_replacement,
    replace_model,
)
from mgm.model.files.weight_files import read_folder, read_weights
from mgm.model.loading import load_model, save_model
from tests.model.tiny import tiny_model

OF_USER = (
    *("adapter.safetensors", "my.safetensors.index.json", "notes.bin", "models.txt", "README.md"),
    *("checkpoint-7", "published_list.txt", "vocabulary.json"),
)
PROCESSOR = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja"),
    *("processor_config.json", "preprocessor_config.json", "trainer_state.json"),
)
KINDS = {
    "shards": (
        *("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        *("model.safetensors.index.json", "generation_config.json", "config.json"),
    ),
    "one file": ("model.safetensors", "config.json"),
    "pickled": (
        *("pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json", "config.json"),
    ),
    "one pickled": ("pytorch_model.bin", "config.json"),
    "stage 1": ("mm_projector.bin", "config.json"),
    "adapter": (
        *("adapter_config.json", "adapter_model.safetensors", "non_lora_trainables.bin"),
        "config.json",
    ),
    "old adapter": ("adapter_config.json", "adapter_model.bin", "config.json"),
}
TWO = list(itertools.permutations(KINDS, 2))


def fill(folder: Path, names: tuple[str, ...], text: str) -> None:
    for name in names:
        (folder / name).write_text(text)


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


@pytest.mark.parametrize(("first", "second"), TWO)
def test_one_kind_replaces_another(tmp_path, first, second) -> None:
    fill(tmp_path, (*OF_USER, *PROCESSOR, *KINDS[first]), "{}")
    (tmp_path / "published").mkdir()
    fill(tmp_path / "published", ("config.json", "tokenizer.json"), "{}")
    with replace_model(tmp_path) as part:
        fill(part, (*KINDS[second], "tokenizer.json"), '{"new": 1}')
    assert names(tmp_path) == {*OF_USER, *KINDS[second], "tokenizer.json"}
    new = {name for name in names(tmp_path) if "new" in (tmp_path / name).read_text()}
    assert new == {*KINDS[second], "tokenizer.json"}
    check_one_model(tmp_path)


def test_saving_weights_keeps_the_processor(tmp_path) -> None:
    fill(tmp_path, (*PROCESSOR, *KINDS["adapter"]), "{}")
    with replace_model(tmp_path, processor=False) as part:
        fill(part, KINDS["one file"], "{}")
    assert names(tmp_path) == {*PROCESSOR, *KINDS["one file"]}


def test_published_model_in_a_subfolder_is_kept(tmp_path) -> None:
    (tmp_path / "published").mkdir()
    fill(tmp_path / "published", KINDS["one file"], "{}")
    with replace_model(tmp_path) as part:
        fill(part, KINDS["adapter"], "{}")
    assert names(tmp_path / "published") == {*KINDS["one file"]}


@pytest.mark.parametrize(("first", "second"), TWO)
def test_kill_at_any_step(tmp_path, monkeypatch, first, second) -> None:
    """The folder has the old model, no model, or the new one."""
    whole = {"replace": Path.replace, "unlink": Path.unlink}
    for step in itertools.count():
        folder, done = tmp_path / str(step), []
        folder.mkdir()
        fill(folder, KINDS[first], "old")

        def call(name: str, self: Path, *values, step=step, done=done, **options):
            if len(done) == step:
                raise KeyboardInterrupt
            done.append(name)
            return whole[name](self, *values, **options)

        try:
            with monkeypatch.context() as patched:
                for name in whole:
                    patched.setattr(Path, name, lambda *a, n=name, **o: call(n, *a, **o))
                with replace_model(folder) as part:
                    fill(part, KINDS[second], "new")
        except KeyboardInterrupt:
            left = [file for file in folder.iterdir() if file.is_file()]
            if done:
                assert "config.json" not in names(folder)
                assert len({file.read_text() for file in left}) <= 1
            else:
                assert {file.name for file in left} == {*KINDS[first]}
            finish_replacement(folder)
            assert names(folder) == {*KINDS[second]}
            assert {file.read_text() for file in folder.iterdir()} == {"new"}
            continue
        assert names(folder) == {*KINDS[second]}
        break


def test_failed_write_leaves_the_old_model(tmp_path) -> None:
    fill(tmp_path, KINDS["adapter"], "{}")
    with pytest.raises(MGMError, match="could not be written"), replace_model(tmp_path) as part:
        (part / "no such folder" / "config.json").write_text("new")
    assert names(tmp_path) == {*KINDS["adapter"]}


def test_new_folder_appears_when_complete(tmp_path) -> None:
    with replace_model(tmp_path / "new/folder") as part:
        fill(part, KINDS["one file"], "{}")
        assert not (tmp_path / "new/folder").exists()
    assert names(tmp_path / "new/folder") == {*KINDS["one file"]}


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(KINDS, 2)))
def test_two_kinds_in_a_folder(tmp_path, first, second) -> None:
    weights = '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'
    pickled = '{"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}'
    for kind in (first, second):
        fill(tmp_path, KINDS[kind], weights if kind == "shards" else pickled)
    if "stage 1" in (first, second) and "adapter" not in first + second:
        check_one_model(tmp_path)  # both of our own stage 1, so that weights are compared
        return
    with pytest.raises(MGMError, match=r"has two models, (\S+) and (\S+), .*; delete ") as caught:
        check_one_model(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert all(any(name in message for name in KINDS[kind][:-1]) for kind in (first, second))


def test_index_without_its_shards(tmp_path) -> None:
    fill(tmp_path, KINDS["one file"], "")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}')
    check_one_model(tmp_path)


def test_same_weights_in_two_formats(tmp_path, caplog) -> None:
    save_model(tiny_model(), tmp_path)
    tensors = read_weights(tmp_path)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    check_one_model(tmp_path)
    assert "model.safetensors and pytorch_model.bin have the same weights" in caplog.text
    load_model(tmp_path)
    name = "tied.weight"  # which safetensors omits
    torch.save(tensors | {name: next(iter(tensors.values()))}, tmp_path / "pytorch_model.bin")
    check_one_model(tmp_path)
    for other in (
        tensors | {name: torch.ones(3)},
        tensors | {name: tensor + 1 for name, tensor in list(tensors.items())[-1:]},
        {"other": torch.ones(3)},
    ):
        torch.save(other, tmp_path / "pytorch_model.bin")
        with pytest.raises(MGMError, match=r"two models, model.safetensors and pytorch_model.bin"):
            check_one_model(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_user_folder_with_the_name_of_a_file(tmp_path, name) -> None:
    fill(tmp_path, KINDS["adapter"][:-1], "{}")
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.txt").write_text("mine")
    with pytest.raises(MGMError, match=f"{name}: is a folder"), replace_model(tmp_path) as part:
        fill(part, KINDS["one file"], "{}")
    assert names(tmp_path) == {*KINDS["adapter"][:-1], name}
    assert (tmp_path / name / "mine.txt").exists()


def test_stage_1_file_beside_another_model(tmp_path) -> None:
    save_model(tiny_model(), tmp_path)
    tensors = read_folder(tmp_path)
    check_stage1(tmp_path, tensors)
    save_stage1(tiny_model(), tmp_path / "mm_projector.bin")
    check_stage1(tmp_path, tensors)
    save_stage1(tiny_model(1), tmp_path / "mm_projector.bin")
    with pytest.raises(MGMError, match=r"two models, model.safetensors and mm_projector.bin"):
        check_stage1(tmp_path, tensors)
