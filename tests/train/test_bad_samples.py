"""Bad samples end a run, or are skipped, counted and listed; never replaced."""

import json

import pytest
import torch

from mgm.data.sources.bad_samples import BAD_SAMPLES_FILE
from mgm.errors import MGMError
from mgm.train.__main__ import run_training
from tests.train.conftest import words


@pytest.fixture
def faulty(data, tmp_path):
    """The data file with a bad sample of every kind, and their indices."""
    samples = json.loads(data.read_text())
    good = samples[0]
    question = good["conversations"][0]

    def changed(**fields):
        return good | fields

    (data.parent / "broken.png").write_bytes((data.parent / "0.png").read_bytes()[:40])
    bad = {
        1: changed(conversations=[]),
        3: changed(image="missing.png"),
        4: changed(image=["0.png", "1.png"]),
        6: changed(conversations=[question, question]),
        9: changed(image="broken.png"),
        10: "no sample",
    }
    for index, sample in bad.items():
        samples.insert(index, sample)
    path = tmp_path / "faulty.json"
    path.write_text(json.dumps(samples))
    return path, set(bad)


@pytest.fixture
def flags(stage2_flags, faulty, data, tmp_path):
    return stage2_flags | {
        "data_path": faulty[0],
        "image_folder": data.parent,
        "output_dir": tmp_path / "out",
        "save_strategy": "no",
    }


def quarantined(flags) -> dict[int, str]:
    lines = (flags["output_dir"] / BAD_SAMPLES_FILE).read_text().splitlines()
    listed = [json.loads(line) for line in lines]
    assert len({entry["sample"] for entry in listed}) == len(listed)
    return {entry["sample"]: entry["reason"] for entry in listed}


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_and_listed(flags, faulty, workers, caplog):
    bad = faulty[1]
    trainer = run_training(
        words(flags | {"on_bad_sample": "skip", "dataloader_num_workers": workers})
    )
    listed = quarantined(flags)
    assert set(listed) == bad
    assert "has no" in listed[1] or "empty list" in listed[1]
    assert "missing.png: there is no such file" in listed[3]
    assert "1 <image> marker but 2 images" in listed[4]
    assert "roles must alternate" in listed[6]
    assert "broken.png" in listed[9]
    assert trainer.state.global_step > 0
    assert f"{len(bad)} bad samples were skipped" in caplog.text


def test_list_of_an_earlier_run_is_moved(flags, faulty):
    """A new run starts a new list; a resumed run appends to its own."""
    saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1, "on_bad_sample": "skip"}
    old = flags["output_dir"] / BAD_SAMPLES_FILE
    old.parent.mkdir()
    entry = {"file": "other.json", "sample": 7, "kind": "malformed", "reason": "of before"}
    old.write_text(json.dumps(entry) + "\n")
    run_training(words(flags | saving))
    aside = flags["output_dir"] / "earlier_run_1" / BAD_SAMPLES_FILE
    assert json.loads(aside.read_text()) == entry
    before = quarantined(flags)
    assert set(before) >= faulty[1] - {9}  # whose damage is found at decoding
    assert "of before" not in before.values()
    run_training(words(flags | saving | {"max_steps": 2}))
    assert quarantined(flags).items() >= before.items()
    assert [folder.name for folder in flags["output_dir"].glob("earlier*")] == ["earlier_run_1"]


def test_skipping_equals_removing(flags, data):
    """The weights equal those without these samples, for the same order."""
    order = {"group_by_modality_length": False, "train_sampling_strategy": None}
    kept = run_training(words(flags | order | {"on_bad_sample": "skip"})).train_dataset
    clean = run_training(
        words(flags | order | {"data_path": data, "output_dir": flags["output_dir"]})
    )
    # The sample with a damaged image is counted as valid at first, and has no labels.
    assert len(kept) == len(clean.train_dataset) + 1
    by_file_index = {kept.file_index(index): kept[index] for index in range(len(kept))}
    assert list(by_file_index.pop(9)) == ["index"]
    same = list(by_file_index.values())
    for sample, of_clean in zip(same, list(clean.train_dataset), strict=True):
        assert torch.equal(sample["input_ids"], of_clean["input_ids"])


def test_batch_of_bad_samples(flags, data, tmp_path):
    samples = [json.loads(data.read_text())[0] | {"image": "broken.png"}] * 3
    path = tmp_path / "all.json"
    path.write_text(json.dumps([*samples, json.loads(data.read_text())[1]]))
    single = {"per_device_train_batch_size": 1, "data_path": path, "on_bad_sample": "skip"}
    (data.parent / "broken.png").write_bytes(b"no image")
    trainer = run_training(words(flags | single))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sorted(loss == 0 for loss in losses) == [False, True, True, True]


def test_raise_ends_the_run_at_the_first(flags):
    with pytest.raises(MGMError, match=r"faulty\.json: sample 1"):
        run_training(words(flags))


def test_no_usable_samples(flags, tmp_path):
    path = tmp_path / "none.json"
    path.write_text(json.dumps([1, 2]))
    with pytest.raises(
        MGMError,
        match=r"no usable samples \(2 malformed\); fix them; first error: .*sample 0: ",
    ):
        run_training(words(flags | {"data_path": path, "on_bad_sample": "skip"}))
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "x"}]
    path.write_text(json.dumps([{"image": "gone.png", "conversations": turns}]))
    with pytest.raises(
        MGMError, match=r"no usable samples \(1 missing image\).*gone\.png: there is no"
    ):
        run_training(words(flags | {"data_path": path, "on_bad_sample": "skip"}))


def test_invalid_policy(flags):
    with pytest.raises(MGMError, match="choose raise or skip"):
        run_training(words(flags | {"on_bad_sample": "replace"}))
