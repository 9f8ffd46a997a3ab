"""Adapters trained on adapters: loading, merging and serving give the trained model."""

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import mgm
from mgm.errors import MGMError
from mgm.model.checkpoint.base_digest import weights_digest
from mgm.model.checkpoint.base_models import base_folders
from mgm.model.loading import load_model
from mgm.train.__main__ import run_training
from mgm.train.merge import main
from tests.train.conftest import words
from tests.train.lora.test_adapter import inputs_of, logits

pytest.importorskip("peft")

KINDS = ("lora", "dora", "qlora")
HEAVY = pytest.mark.heavy


@pytest.fixture(scope="module")
def train(stage2_flags) -> Callable[..., torch.nn.Module]:
    """Train an adapter of a kind on `base`; returns the model in memory."""

    def train(kind: str, base: Path, output: Path, **more: object) -> torch.nn.Module:
        """The model in memory, after an adapter of a kind was trained on `base`."""
        flags = stage2_flags | {"model_name_or_path": base, "output_dir": output, "max_steps": 1}
        flags |= {"save_strategy": "no", "learning_rate": 0.03, "lora_enable": True, "lora_r": 4}
        flags |= {"use_dora": kind == "dora", "bits": 4 if kind == "qlora" else 16}
        if kind == "biases":
            flags |= {"lora_bias": "all"}
        return run_training(words(flags | more)).model.eval()

    return train


@pytest.fixture(scope="module")
def chain(train, stage1, tmp_path_factory) -> tuple[list[Path], torch.nn.Module]:
    """Folders of a whole model and of three adapters, each on the one before; and the model."""
    root = tmp_path_factory.mktemp("chain")
    shutil.copytree(stage1, root / "whole")
    folders = [root / "whole"]
    for number, kind in enumerate(("lora", "dora", "lora")):
        model = train(kind, folders[-1], root / str(number))
        folders.append(root / str(number))
    return folders, model


@pytest.fixture
def copied(chain, tmp_path) -> list[Path]:
    """A copy of the chain, with paths of bases updated."""
    folders = [tmp_path / folder.name for folder in chain[0]]
    for source, folder in zip(chain[0], folders, strict=True):
        shutil.copytree(source, folder)
    for below, folder in pairwise(folders):
        name_base(folder, below)
    return folders


def name_base(folder: Path, base: Path) -> None:
    file = folder / "adapter_config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"base_model_name_or_path": str(base)}))


def assert_is(model: torch.nn.Module, loaded: torch.nn.Module) -> None:
    inputs = inputs_of(model)
    ours, expected = logits(loaded, **inputs), logits(model, **inputs)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("second", [*KINDS[:2], "biases", pytest.param("qlora", marks=HEAVY)])
@pytest.mark.parametrize("first", [*KINDS[:2], "biases", pytest.param("qlora", marks=HEAVY)])
@pytest.mark.slow
def test_two_adapters(train, stage1, tmp_path, first, second) -> None:
    if "qlora" in (first, second):
        pytest.importorskip("bitsandbytes")
    train(first, stage1, tmp_path / "first")
    model = train(second, tmp_path / "first", tmp_path / "second")
    loaded = load_model(tmp_path / "second")
    if second != "qlora":
        assert_is(model, loaded)
        return
    inputs = inputs_of(model)
    ours = model(**inputs).logits.detach()  # as in test_adapter: on quantised weights
    assert (ours - logits(loaded, **inputs)).norm() < 0.35 * ours.norm()


@pytest.mark.parametrize("base", [None, 0, 1, 2])
def test_three_adapters_load_as_the_trained_model(chain, base) -> None:
    """With each model of the chain as `--model-base`."""
    folders, model = chain
    assert_is(model, load_model(folders[-1], base=None if base is None else folders[base]))


def test_last_adapter_unmerged(chain) -> None:
    folders, model = chain
    loaded = load_model(folders[-1], merge_lora=False)
    assert any("lora_A" in name for name, _ in loaded.named_parameters())
    assert_is(model, loaded)


def test_serving(chain) -> None:
    folders, model = chain
    engine = mgm.load(folders[-1], device="cpu", base=folders[0])
    assert_is(model, engine.model)
    assert engine.answer([mgm.Request("hi", max_new_tokens=2)])


def test_tokenizer_of_the_base(copied) -> None:
    for folder in copied[1:]:
        for file in folder.glob("token*"):
            file.unlink()
    assert mgm.load(copied[-1], device="cpu").processor.tokenizer.get_vocab()


def merge(monkeypatch, *values: object) -> None:
    monkeypatch.setattr("sys.argv", ["merge", *map(str, values)])
    main()


def test_merge_of_the_chain(chain, tmp_path, monkeypatch) -> None:
    folders, model = chain
    merge(monkeypatch, folders[-1], tmp_path / "merged")
    assert_is(model, load_model(tmp_path / "merged"))


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_moved_base(chain, copied, tmp_path, monkeypatch, gone) -> None:
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    copied[gone].rename(moved)
    pattern = rf"{copied[gone + 1]}: needs its base model \('{copied[gone]}' by its config\), "
    with pytest.raises(MGMError, match=pattern + r"which is not there; give its .*--model-base"):
        load_model(copied[-1])
    with pytest.raises(
        MGMError, match=pattern + "which is not there; give its folder with --base$"
    ):
        merge(monkeypatch, copied[-1], tmp_path / "merged")
    assert_is(chain[1], load_model(copied[-1], base=moved))
    merge(monkeypatch, copied[-1], tmp_path / "merged", "--base", moved)
    assert_is(chain[1], load_model(tmp_path / "merged"))


@pytest.mark.parametrize("name", [None, ""])
def test_adapter_without_a_base_name(tmp_path, name) -> None:
    """Plain peft may omit it; a given base is used."""
    adapter, base = tmp_path / "adapter", tmp_path / "base"
    for folder in (adapter, base):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    settings = {"base_model_name_or_path": name}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    assert base_folders(adapter, base) == [base]
    with pytest.raises(MGMError, match=r"needs its base model .* which is not there"):
        base_folders(adapter)


def test_base_that_would_skip_an_adapter(copied, tmp_path) -> None:
    shutil.copytree(copied[0], tmp_path / "copy")
    with pytest.raises(MGMError, match="is neither of them; leave out the base model"):
        load_model(copied[-1], base=tmp_path / "copy")


@pytest.fixture
def retrained(copied, tmp_path) -> tuple[Path, Path, Path]:
    """An adapter, its retrained base, and a copy of the base as it was."""
    adapter, base = copied[-1], copied[-2]
    kept = shutil.copytree(base, tmp_path / "kept")
    weights = load_file(base / "adapter_model.safetensors")
    with safe_open(base / "adapter_model.safetensors", "pt") as file:
        metadata = file.metadata()
    changed = {name: tensor + 0.1 for name, tensor in weights.items()}
    save_file(changed, base / "adapter_model.safetensors", metadata)
    return adapter, base, kept


def test_retrained_base(retrained, chain, train, tmp_path, monkeypatch):
    adapter, base, kept = retrained
    fault = f"^{adapter}: was trained on other weights than those in {base}, its base"
    with pytest.raises(
        MGMError, match=fault + r" model; restore them, or give .*--model-base \.\.\.\)$"
    ):
        load_model(adapter)
    with pytest.raises(MGMError, match=r"other weights .*; give its folder with --base$"):
        merge(monkeypatch, adapter, tmp_path / "merged")
    with pytest.raises(MGMError, match=r"other weights .*merge ADAPTER MODEL --base BASE_MODEL"):
        train("lora", adapter, tmp_path / "new")
    with pytest.raises(MGMError, match=r"other weights .*merge ADAPTER MODEL --base BASE_MODEL"):
        train("lora", base, tmp_path / "new", lora_weight_path=adapter)
    assert_is(chain[1], load_model(adapter, base=kept))


def test_given_base_with_other_weights(retrained, caplog):
    adapter, base, kept = retrained
    load_model(adapter, base=kept)
    assert not caplog.messages
    load_model(adapter, base=base)
    (line,) = caplog.messages
    assert f"was trained on other weights than those in {base}" in line


def test_retrained_whole_base(copied, tmp_path):
    """Below one adapter or several; the base's config is not compared."""
    file = copied[0] / "model.safetensors"
    settings = json.loads((copied[0] / "config.json").read_text())
    (copied[0] / "config.json").write_text(json.dumps(settings | {"_name_or_path": "x"}))
    load_model(copied[2])
    weights = load_file(file)
    name = next(iter(weights))
    save_file(weights | {name: weights[name] + 1}, file, metadata={"format": "pt"})
    for adapter in copied[1:]:
        with pytest.raises(MGMError, match=f"^{copied[1]}: was trained on other weights than"):
            load_model(adapter)


def test_adapter_without_a_digest(retrained):
    """As published ones, and those of older versions; an adapter on it has digests of both."""
    adapter, base, _ = retrained
    file = adapter / "adapter_model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt"})
    load_model(adapter)
    layers = [adapter, *base_folders(adapter)]
    before = weights_digest(layers)
    save_file(load_file(base / file.name), base / file.name, metadata={"format": "pt"})
    assert weights_digest(layers) != before


def test_identical_retraining(train, stage1, tmp_path):
    for name in ("one", "two"):
        train("lora", stage1, tmp_path / name)
    first, second = (weights_digest([tmp_path / name, stage1]) for name in ("one", "two"))
    assert first == second


def test_cyclic_bases(copied, tmp_path) -> None:
    name_base(copied[1], copied[3])
    with pytest.raises(
        MGMError, match=r"its base models form a loop \(.* on .*\); correct"
    ) as error:
        load_model(copied[3])
    assert "\n" not in str(error.value)


def test_whole_base_for_an_adapter_on_an_adapter(chain, tmp_path, monkeypatch) -> None:
    """The adapter between is missing; a given base may or may not include it."""
    top = tmp_path / "top"
    shutil.copytree(chain[0][-1], top)
    between = chain[0][-2]
    between.rename(between.with_name("gone"))
    try:
        with pytest.raises(
            MGMError, match=r"was trained on the adapter .*, and .* is a whole model"
        ):
            load_model(top, base=chain[0][0])
        assert_is(chain[1], load_model(top, base=between.with_name("gone")))
    finally:
        between.with_name("gone").rename(between)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (["nowhere", "new"], "^ADAPTER.*nowhere: no such folder"),
        (["", "new"], "^ADAPTER is empty"),
        (["{whole}", "new"], "^ADAPTER .*has no adapter_config.json; give the folder of an adap"),
        (["{file}", "new"], "^ADAPTER.*is a file"),
        (["{adapter}", "{whole}"], "^MODEL .*exists already; name a new folder"),
        (["{adapter}", "new", "--base", "nowhere"], "^--base: nowhere: no such folder"),
        (["{adapter}", "new", "--base", "{file}"], "^--base: .*is a file"),
        (["{adapter}", "new", "--base", ""], "^--base"),
        (["{adapter}"], "required: MODEL"),
        (["{adapter}", "new", "--model-path", "x"], "unrecognized arguments"),
    ],
)
def test_errors_of_merging(chain, tmp_path, monkeypatch, values, fault) -> None:
    monkeypatch.chdir(tmp_path)
    folders = chain[0]
    names = {"whole": folders[0], "adapter": folders[1], "file": folders[0] / "config.json"}
    with pytest.raises(MGMError, match=fault) as error:
        merge(monkeypatch, *(value.format(**names) for value in values))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()


def test_errors_of_training_on_adapters(chain, train, copied, tmp_path) -> None:
    for output in (copied[1], copied[0]):
        with pytest.raises(MGMError, match=r"--output_dir .* the run would overwrite; choose"):
            train("lora", copied[1], output)
    with pytest.raises(
        MGMError, match=r"--lora_weight_path .* is in --model_name_or_path .* alrea"
    ):
        train("lora", copied[1], tmp_path / "new", lora_weight_path=copied[1])
    with pytest.raises(MGMError, match=r"--model_name_or_path .* was trained on .*1; give that"):
        train("lora", copied[0], tmp_path / "new", lora_weight_path=copied[3])
    copied[0].rename(tmp_path / "moved")
    with pytest.raises(MGMError, match=r"not there; restore it, or make one model .* --base BASE"):
        train("lora", copied[1], tmp_path / "new")


def test_continue_training_an_adapter_on_an_adapter(chain, train, tmp_path) -> None:
    folders, model = chain
    more = {"lora_weight_path": folders[3], "learning_rate": 0.0}
    assert_is(model, train("lora", folders[2], tmp_path, **more))
