"""One policy for bad samples, for every order, container and number of processes."""

import json
import re
from itertools import pairwise

import pytest
import torch

from mgm.data.datasets import stream_order
from mgm.data.sources.bad_samples import BAD_SAMPLES_FILE
from mgm.errors import MGMError
from mgm.train.__main__ import run_training
from mgm.train.trainer import MGMTrainer
from tests.train.conftest import words
from tests.train.test_processes import ROOT, train_in_processes

ORDERS = {
    "plain": {"group_by_modality_length": False},
    "modality": {},
    "length": {"group_by_modality_length": False, "group_by_length": True},
    "packing": {"group_by_modality_length": False, "packing": True},
    "stream": {"group_by_modality_length": False, "streaming": True, "max_steps": 8},
    "packed stream": {
        **{"group_by_modality_length": False, "streaming": True, "max_steps": 8},
        "packing": True,
    },
}


def turns(question, answer):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


BAD = {
    "malformed": {"conversations": []},
    "surrogate": {"conversations": turns("Which?", "It is \ud83d.")},
    "no words": {"conversations": turns("", "")},
    "missing": {"image": "gone.png", "conversations": turns("<image>\nWhich?", "it")},
    "broken": {"image": "broken.png", "conversations": turns("<image>\nWhich?", "it")},
    "NUL": {"image": "a\0b.png", "conversations": turns("<image>\nWhich?", "it")},
    "long name": {"image": "x" * 5000, "conversations": turns("<image>\nWhich?", "it")},
}
KINDS = {
    **dict.fromkeys(("malformed", "surrogate"), "malformed"),
    "missing": "missing image",
    **dict.fromkeys(("NUL", "long name"), "broken image"),
    **{"no words": "no answer", "broken": "broken image"},
}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(stream_order, "MIN_BLOCK_SAMPLES", 8)


@pytest.fixture
def images(data):
    (data.parent / "broken.png").write_bytes((data.parent / "0.png").read_bytes()[:60])
    return data.parent


@pytest.fixture
def flags(stage2_flags, images, tmp_path):
    return stage2_flags | {
        "image_folder": images,
        "output_dir": tmp_path / "out",
        "save_strategy": "no",
        "max_steps": 3,
    }


def written(path, samples):
    """Samples as .jsonl, which can be streamed, too."""
    path.write_text("".join(f"{json.dumps(sample)}\n" for sample in samples))
    return path


def listed(folder):
    lines = (folder / BAD_SAMPLES_FILE).read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert len({(entry["file"], entry["sample"]) for entry in entries}) == len(entries)
    return entries


@pytest.mark.parametrize("order", ORDERS)
def test_skipped(order, flags, data, tmp_path, caplog):
    good = json.loads(data.read_text())
    path = written(tmp_path / "some.jsonl", [*BAD.values(), *good[:3], good[-1]])
    more = {"data_path": path, "on_bad_sample": "skip", "num_train_epochs": 2, "max_steps": None}
    trainer = run_training(words(flags | more | ORDERS[order]))
    by_sample = {entry["sample"]: entry for entry in listed(flags["output_dir"])}
    for index, name in enumerate(BAD):
        streamed_kind = "broken image" if "stream" in order else KINDS[name]
        expected = streamed_kind if KINDS[name] == "missing image" else KINDS[name]
        assert by_sample.pop(index)["kind"] == expected, name
    assert not by_sample
    assert trainer.steps_with_loss > 0
    assert f"{len(BAD)} bad samples were skipped" in caplog.text
    assert "no label" not in caplog.text


@pytest.mark.parametrize("order", ["plain", "packing", "stream"])
@pytest.mark.parametrize("name", BAD)
def test_raise_names_file_sample_and_reason(order, name, flags, data, tmp_path):
    good = json.loads(data.read_text())
    path = written(tmp_path / "one.jsonl", [good[0], BAD[name], good[1]])
    with pytest.raises(MGMError) as caught:
        run_training(words(flags | {"data_path": path} | ORDERS[order]))
    text = str(caught.value)
    assert text.startswith(f"{path}: sample 1"), text
    assert len(text) < 700
    assert "\0" not in text


@pytest.mark.parametrize("name", ["surrogate", "broken"])
def test_raise_in_a_loader_worker(name, flags, data, tmp_path):
    """Both kinds of errors cross processes as one line."""
    path = written(tmp_path / "one.jsonl", [json.loads(data.read_text())[0], BAD[name]])
    more = {"data_path": path, "dataloader_num_workers": 1} | ORDERS["stream"]
    with pytest.raises(MGMError, match=rf"^{re.escape(str(path))}: sample 1"):
        run_training(words(flags | more))


@pytest.mark.parametrize("order", ["plain", "packing", "stream"])
def test_only_bad_samples(order, flags, tmp_path):
    """Known when the file is opened, or when its images are."""
    for name, samples, expected in (
        ("opened", [BAD["malformed"], BAD["no words"], BAD["malformed"]], "2 malformed, 1 no ans"),
        ("read", [BAD["malformed"], BAD["broken"], BAD["broken"]], "2 broken image, 1 malformed"),
    ):
        path = written(tmp_path / f"{name}.jsonl", samples)
        more = {"data_path": path, "on_bad_sample": "skip", "max_steps": 100}
        with pytest.raises(MGMError) as caught:
            run_training(words(flags | ORDERS[order] | more))
        text = str(caught.value)
        assert text.startswith(f"{path}: no usable samples ({expected}"), text
        assert f"first error: {path}: sample 0: 'conversations' is an empty list" in text


def test_short_run_with_only_bad_samples(flags, data, tmp_path):
    """The data may have good samples that the run did not reach."""
    path = written(tmp_path / "most.jsonl", [BAD["broken"]] * 9 + json.loads(data.read_text())[:1])
    more = {"data_path": path, "on_bad_sample": "skip", "max_steps": 1, "seed": 1}
    more |= {"per_device_train_batch_size": 1, "group_by_modality_length": False}
    message = r"no usable samples \(\d broken image\); fix them; first error: "
    with pytest.raises(MGMError, match=message):
        run_training(words(flags | more))
    assert not (flags["output_dir"] / "model.safetensors").exists()


def test_step_of_bad_samples_keeps_the_weights(flags, data, tmp_path, caplog, monkeypatch):
    """Without weight decay and momentum."""
    good = json.loads(data.read_text())[0]
    path = written(tmp_path / "half.jsonl", [good, *[BAD["broken"]] * 3])
    more = {"data_path": path, "on_bad_sample": "skip", "per_device_train_batch_size": 1}
    more |= {"group_by_modality_length": False, "weight_decay": 0.1, "max_steps": 4}
    more |= {"lr_scheduler_type": "constant", "gradient_accumulation_steps": 1}
    states = []

    class Watched(MGMTrainer):
        def _count_step(self, labels):
            super()._count_step(labels)
            states.append(torch.cat([p.detach().flatten() for p in self.model.parameters()]))

    monkeypatch.setattr("mgm.train.run.MGMTrainer", Watched)
    trainer = run_training(words(flags | more))
    states.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    changes = sum(not torch.equal(a, b) for a, b in pairwise(states))
    assert trainer.steps_without_loss == 3
    assert trainer.steps_with_loss == 1
    assert changes == 1
    assert caplog.text.count("so it changes no weights") == 1
    assert "3 of 4 steps had no usable sample" in caplog.text


def test_resumed_run_lists_samples_once(flags, data, tmp_path):
    good = json.loads(data.read_text())
    path = written(tmp_path / "some.jsonl", [*BAD.values(), *good])
    more = {"data_path": path, "on_bad_sample": "skip", "save_strategy": "steps", "save_steps": 2}
    run_training(words(flags | more | {"max_steps": 4}))
    before = listed(flags["output_dir"])
    last = flags["output_dir"] / "checkpoint-4"
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    run_training(words(flags | more | {"max_steps": 4, "resume_from_checkpoint": True}))
    after = listed(flags["output_dir"])
    assert after[: len(before)] == before
    assert len(after) <= len(BAD)


def test_files_of_a_mixture(flags, data, tmp_path, caplog):
    good = json.loads(data.read_text())
    paths = [written(tmp_path / f"{name}.jsonl", [*BAD.values(), *good[:3]]) for name in "ab"]
    mixture = tmp_path / "mixture.json"
    mixture.write_text(json.dumps({"datasets": [{"path": path.name} for path in paths]}))
    more = {"data_path": mixture, "on_bad_sample": "skip", "max_steps": None}
    run_training(words(flags | more))
    skipped = {(entry["file"], entry["sample"]) for entry in listed(flags["output_dir"])}
    assert skipped == {(str(path), index) for path in paths for index in range(len(BAD))}


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("form", ["ddp", "zero2", "fsdp"])
def test_two_processes(form, flags, data, tmp_path):
    """One rank has only bad samples; there is no deadlock, and all are listed."""
    good = json.loads(data.read_text())
    path = written(tmp_path / "some.jsonl", [*BAD.values(), *[BAD["broken"]] * 5, *good[:3]])
    flags |= {"data_path": path, "on_bad_sample": "skip", "per_device_train_batch_size": 1}
    flags |= {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 3, "eval_data_path": path}
    flags |= {"eval_image_folder": data.parent, "group_by_modality_length": False}
    flags |= {"per_device_eval_batch_size": 1}
    if form == "zero2":
        pytest.importorskip("deepspeed")
        flags |= {"deepspeed": ROOT / "scripts" / "zero2.json"}
    flags |= {"fsdp": "full_shard"} if form == "fsdp" else {}
    done = train_in_processes(flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(listed(flags["output_dir"])) == len(BAD) + 5
    state = json.loads((flags["output_dir"] / "trainer_state.json").read_text())
    figures = [entry for entry in state["log_history"] if "eval_loss" in entry]
    assert [entry["eval_samples"] for entry in figures] == [3, 3]
    assert [entry["eval_samples_skipped"] for entry in figures] == [len(BAD) + 5] * 2


@pytest.mark.slow
@pytest.mark.process
def test_only_bad_samples_in_two_processes(flags, tmp_path):
    path = written(tmp_path / "bad.jsonl", [BAD["broken"]] * 4)
    flags |= {"data_path": path, "on_bad_sample": "skip", "max_steps": 900}
    done = train_in_processes(flags | {"group_by_modality_length": False})
    assert done.returncode != 0
    message = f"error: {path}: no usable samples (4 broken image); fix them; first error: "
    assert message in done.stderr
