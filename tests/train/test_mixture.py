"""Mixtures: several data files as one."""

import json
from collections import Counter

import pytest

from mgm.data.sources.mixture_config import read_mixture
from mgm.errors import MGMError
from mgm.train.__main__ import run_training
from tests.train.conftest import words


@pytest.fixture
def mixture(data, tmp_path):
    """Captions with weight 2.5 and texts with weight 1, each with its image folder."""
    samples = json.loads(data.read_text())
    texts = [sample for sample in samples if "image" not in sample]
    (tmp_path / "texts.jsonl").write_text("".join(f"{json.dumps(text)}\n" for text in texts))
    captions = {
        "path": str(data.parent / "captions.json"),
        "image_folder": str(data.parent),
        "weight": 2.5,
    }
    path = tmp_path / "mixture.json"
    path.write_text(json.dumps({"datasets": [captions, {"path": "texts.jsonl", "name": "text"}]}))
    return path


@pytest.fixture
def flags(stage2_flags, mixture, tmp_path):
    changes = {"data_path": mixture, "output_dir": tmp_path / "out", "save_strategy": "no"}
    return stage2_flags | changes


def test_samples_per_epoch_follow_weights(flags):
    trainer = run_training(words(flags))
    dataset = trainer.train_dataset
    assert len(dataset) == 8 * 2.5 + 3
    seen = Counter(dataset.label(index) for index in range(len(dataset)))
    assert sorted(seen.values()) == [1] * 3 + [2] * 4 + [3] * 4
    assert seen["0 of text"] == 1
    assert dataset.modality_lengths.count(-3) == 3  # "say 0" and "0"
    assert int(dataset.image_counts.sum()) == 20
    for index in (0, 19, 22):
        assert int(dataset[index]["index"]) == index
        assert dataset[index]["input_ids"].tolist() == dataset.encode(index)[0]
    assert trainer.state.global_step == -(-23 // 2)


def test_sampling_is_reproducible(flags, tmp_path):
    names = []
    for seed in (1, 1, 2):
        of_run = flags | {"seed": seed, "max_steps": 1, "output_dir": tmp_path / str(len(names))}
        dataset = run_training(words(of_run)).train_dataset
        names.append([dataset.label(index) for index in range(len(dataset))])
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize("packing", [False, True])
def test_loss_of_each_data_set(flags, caplog, tmp_path, packing):
    """The total is their mean weighted by labels; the plot has a line for each."""
    caplog.set_level("INFO", "mgm")
    changes = {"packing": packing, "group_by_modality_length": False, "model_max_length": 96}
    trainer = run_training(words(flags | changes | {"per_device_train_batch_size": 4}))
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert {name for entry in steps for name in entry if name.startswith("loss/")} == {
        "loss/captions",
        "loss/text",
    }
    both = [entry for entry in steps if "loss/captions" in entry and "loss/text" in entry]
    assert both
    for entry in both:
        low, high = sorted((entry["loss/captions"], entry["loss/text"]))
        assert low - 1e-4 <= entry["loss"] <= high + 1e-4
    alone = [entry for entry in steps if "loss/text" not in entry]
    for entry in alone:
        assert entry["loss/captions"] == pytest.approx(entry["loss"], abs=1e-4)
    assert "captions" in next(line for line in caplog.messages if line.startswith("step 1 "))


def test_packed(flags):
    more = {"packing": True, "group_by_modality_length": False, "model_max_length": 96}
    rows = run_training(words(flags | more)).train_dataset.rows
    assert sorted(index for row in rows for index in row) == list(range(23))


def test_errors_name_the_data_set(flags, mixture):
    (mixture.parent / "texts.jsonl").write_text("{}\n")
    with pytest.raises(MGMError, match=r"texts\.jsonl: sample 0"):
        run_training(words(flags))


def test_lists_are_not_mixtures(data, tmp_path):
    assert read_mixture(data) is None
    assert read_mixture(tmp_path / "nowhere.json") is None
    (tmp_path / "lines.json").write_text('{"conversations": []}\n' * 2)
    assert read_mixture(tmp_path / "lines.json") is None


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({"datasets": []}, "is not a valid mixture"),
        ({"datasets": [{"path": "a"}], "more": 1}, "is not a valid mixture"),
        ({"datasets": [{}]}, "dataset 0: has no path"),
        ({"datasets": [{"path": "a.json", "wieght": 1}]}, "unknown key 'wieght'"),
        ({"datasets": [{"path": "a.json", "weight": 0}]}, "weight is 0; expected a number above 0"),
        ({"datasets": [{"path": "a.json"}] * 2}, "two datasets have the name 'a'"),
    ],
)
def test_invalid_mixtures(tmp_path, content, fault):
    path = tmp_path / "mixture.json"
    path.write_text(json.dumps(content))
    with pytest.raises(MGMError, match=fault):
        read_mixture(path)


def test_weights_below_one_sample(flags, mixture, caplog):
    """A data set without samples in an epoch is reported; an empty mixture is an error."""
    content = json.loads(mixture.read_text())
    content["datasets"][1]["weight"] = 0.1
    mixture.write_text(json.dumps(content))
    assert len(run_training(words(flags | {"max_steps": 1})).train_dataset) == 8 * 2.5
    assert "text is not used: its weight 0.1 selects none of its 3 " in caplog.text
    mixture.write_text(json.dumps({"datasets": content["datasets"][1:]}))
    message = r"mixture\.json: the weights select no samples; give larger"
    with pytest.raises(MGMError, match=message):
        run_training(words(flags))
