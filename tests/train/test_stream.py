"""Streaming: every sample once per epoch, and exact resume."""

import json
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from mgm.data.datasets import stream_order as module
from mgm.data.datasets.collator import Collator
from mgm.data.datasets.packing import PackedCollator
from mgm.data.datasets.streaming import MAX_SHARD_SAMPLES, Order, StreamCollator, StreamedDataset
from mgm.data.datasets.training_dataset import TrainingDataset
from mgm.data.processing_mgm import MGMProcessor
from mgm.data.sources.bad_samples import BadSamples
from mgm.data.sources.mixture_config import MixtureSource
from mgm.errors import MGMError
from mgm.train.__main__ import run_training
from tests.data.shards import as_tars, write_tar
from tests.train.conftest import words
from tests.train.test_processes import train_in_processes

ORDERS = {
    "shuffled": Order(seed=3, batch_size=2),
    "packed": Order(seed=3, batch_size=2, pack_to=128),
    "by length": Order(seed=3, batch_size=2, by_length=True),
}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(module, "MIN_BLOCK_SAMPLES", 8)


@pytest.fixture(scope="module")
def processor(stage1) -> MGMProcessor:
    return MGMProcessor.from_pretrained(stage1)


@pytest.fixture(scope="module")
def tars(data, tmp_path_factory) -> str:
    return as_tars(data, tmp_path_factory.mktemp("tars"), 5)


def streamed(tars, processor, order=ORDERS["shuffled"], reader=(0, 1), **more) -> StreamedDataset:
    return StreamedDataset(tars, [MixtureSource(tars)], processor, order, reader=reader, **more)


def indices(items) -> list[list[int]]:
    """The samples that each item has."""
    rows = [item if isinstance(item, list) else [item] for item, _ in items]
    return [[int(part["index"]) for part in row] for row in rows]


def test_samples_equal_the_file(tars, data, processor):
    expected = TrainingDataset(data, processor)
    items = streamed(tars, processor)
    seen = {}
    for item, _ in islice(items, 36):
        shard, number = divmod(int(item["index"]), MAX_SHARD_SAMPLES)
        seen[number * 5 + shard] = item
    assert sorted(seen) == list(range(len(expected)))
    for index, item in seen.items():
        sample = expected[index]
        assert item.keys() - {"source"} == sample.keys()
        for name in sample.keys() - {"index"}:
            assert torch.equal(item[name], sample[name]), (index, name)


@pytest.mark.parametrize("readers", [1, 2, 4, 7])
def test_every_sample_once_per_epoch(tars, data, processor, readers):
    count = len(json.loads(data.read_text()))
    rounds = 3
    seen: Counter[int] = Counter()
    for reader in range(readers):
        stream = streamed(tars, processor, reader=(reader, readers))
        mine = {(shard, index) for shard in range(5) for index in range(shard, count, 5)}
        # As many as this reader's part has.
        if readers <= 5:
            own = sum(shard % readers == reader for shard, _ in mine)
        else:
            own = sum((index // 5) % readers == reader for _, index in mine)
        if not own:
            with pytest.raises(MGMError, match="give more, or fewer processes"):
                next(iter(stream))
            continue
        block = stream.order.block
        whole = -(-own * rounds // block) * block
        got = [index for row in indices(islice(stream, whole)) for index in row]
        counts = Counter(got)
        assert len(counts) == own
        assert max(counts.values()) - min(counts.values()) <= 1
        seen += counts
    assert len(seen) == count


def test_epochs_have_different_orders(tars, processor):
    stream = streamed(tars, processor, Order(seed=3, batch_size=12))
    orders = indices(islice(stream, 24))
    assert sorted(orders[:12]) == sorted(orders[12:])
    assert orders[:12] != orders[12:]
    assert orders == indices(islice(streamed(tars, processor, Order(3, 12)), 24))
    assert orders != indices(islice(streamed(tars, processor, Order(4, 12)), 24))


@pytest.mark.parametrize("order", ORDERS)
def test_cursor_resumes_the_stream(tars, processor, order):
    items = list(islice(streamed(tars, processor, ORDERS[order]), 25))
    for stop in range(len(items)):
        stream = streamed(tars, processor, ORDERS[order])
        stream.record_cursor(json.loads(json.dumps(items[stop][1])))
        following = islice(stream, len(items) - stop - 1)
        assert indices(following) == indices(items[stop + 1 :])


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_resumes_at_the_next_batch(tars, processor, workers):
    def batches(stream: StreamedDataset, count: int):
        collate = StreamCollator(PackedCollator(Collator.of(processor)))
        loader = DataLoader(stream, 2, num_workers=workers, collate_fn=collate)
        return list(islice(loader, count))

    straight = batches(streamed(tars, processor, ORDERS["packed"]), 9)
    for stop in (1, 2, 5):
        stream = streamed(tars, processor, ORDERS["packed"])
        for batch in straight[:stop]:
            stream.record_cursor(batch["cursor"])
        stream.state = json.loads(json.dumps(stream.state))
        for batch, expected in zip(batches(stream, 9 - stop), straight[stop:], strict=True):
            assert torch.equal(batch["input_ids"], expected["input_ids"])
            assert torch.equal(batch["index"], expected["index"])


def test_packed_rows_are_nearly_full(tars, processor, monkeypatch):
    monkeypatch.setattr(module, "MIN_BLOCK_SAMPLES", 256)
    rows = [item for item, _ in islice(streamed(tars, processor, Order(0, 2, pack_to=256)), 40)]
    filled = [sum(len(part["input_ids"]) for part in row) for row in rows]
    assert max(filled) <= 256
    assert sum(filled) / (256 * len(rows)) > 0.95


def test_weights_are_sampling_shares(tars, data, processor, tmp_path):
    texts = tmp_path / "texts.jsonl"
    samples = [sample for sample in json.loads(data.read_text()) if "image" not in sample]
    texts.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    sources = [MixtureSource(tars, weight=1), MixtureSource(str(texts), weight=3)]
    stream = StreamedDataset("mixture", sources, processor, ORDERS["shuffled"])
    counts = Counter(int(item["source"]) for item, _ in islice(stream, 400))
    assert 60 < counts[0] < 140
    assert stream.label(5 * MAX_SHARD_SAMPLES + 2) == f"2 of {texts}"


def test_bad_samples(processor, tmp_path):
    talk = [{"from": "human", "value": "Say"}, {"from": "gpt", "value": "c"}]
    members = [
        ("0.json", json.dumps(talk)),
        ("1.json", "{"),
        ("2.jpg", b"no image"),
        ("2.txt", "a"),
    ]
    tar = str(write_tar(tmp_path / "a.tar", members))
    with pytest.raises(MGMError, match=r"a\.tar: sample [12]"):
        list(islice(streamed(tar, processor), 8))
    bad_samples = BadSamples(tmp_path / "quarantine.jsonl")
    items = list(islice(streamed(tar, processor, bad_samples=bad_samples), 8))
    kept = [index for (index,), (item, _) in zip(indices(items), items, strict=True)
            if "input_ids" in item]  # fmt: skip
    assert set(kept) == {0}
    listed = [json.loads(line) for line in bad_samples.file.read_text().splitlines()]
    assert {entry["sample"] for entry in listed} == {1, 2}
    assert all("a.tar: sample" in entry["reason"] for entry in listed)


def test_no_usable_samples(processor, tmp_path):
    tar = str(write_tar(tmp_path / "a.tar", [("0.json", "{")]))
    stream = streamed(tar, processor, bad_samples=BadSamples(tmp_path / "quarantine.jsonl"))
    with pytest.raises(MGMError, match=r"no usable samples \(1 malformed\)"):
        next(iter(stream))


@pytest.fixture(scope="module")
def flags(stage2_flags, tars) -> dict[str, object]:
    return stage2_flags | {
        "data_path": tars,
        "streaming": True,
        "max_steps": 6,
        "group_by_modality_length": False,
        "attn_implementation": "sdpa",
    }


def leave_checkpoint(folder: Path, step: int) -> None:
    """Remove all checkpoints but one, as if the run had stopped there."""
    for checkpoint in folder.glob("checkpoint-*"):
        if checkpoint.name != f"checkpoint-{step}":
            shutil.rmtree(checkpoint)


def check_equal(ours: Path, theirs: Path) -> None:
    first, second = (load_file(folder / "model.safetensors") for folder in (ours, theirs))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize(
    "more",
    [{}, {"packing": True, "model_max_length": 128}, {"dataloader_num_workers": 2}],
    ids=["alone", "packed", "workers"],
)
def test_resume_is_exact(flags, tmp_path, more):
    flags = flags | more
    run_training(words(flags | {"output_dir": tmp_path / "straight"}))
    shutil.copytree(tmp_path / "straight", tmp_path / "stopped")
    leave_checkpoint(tmp_path / "stopped", 2)
    trainer = run_training(words(flags | {"output_dir": tmp_path / "stopped"}))
    assert trainer.state.global_step == 6
    check_equal(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.slow
def test_two_processes_resume_exactly(flags, tmp_path):
    done = train_in_processes(flags | {"output_dir": tmp_path / "straight"})
    assert done.returncode == 0, done.stderr[-3000:]
    shutil.copytree(tmp_path / "straight", tmp_path / "stopped")
    leave_checkpoint(tmp_path / "stopped", 2)
    done = train_in_processes(flags | {"output_dir": tmp_path / "stopped"})
    assert done.returncode == 0, done.stderr[-3000:]
    check_equal(tmp_path / "straight", tmp_path / "stopped")


def test_other_shards_are_an_error(flags, data, tmp_path):
    run_training(words(flags | {"output_dir": tmp_path, "max_steps": 2}))
    (tmp_path / "tars").mkdir()
    other = as_tars(data, tmp_path / "tars", 2)
    with pytest.raises(MGMError, match="was made by another run"):
        run_training(words(flags | {"output_dir": tmp_path, "data_path": other}))
    with pytest.raises(MGMError, match="dataloader_num_workers"):
        run_training(words(flags | {"output_dir": tmp_path, "dataloader_num_workers": 2}))


def test_flags(flags, tmp_path):
    with pytest.raises(MGMError, match="--max_steps"):
        run_training(words(flags | {"output_dir": tmp_path, "max_steps": None}))
    alone = {"streaming": False, "data_path": f"{tmp_path}/a.tar"}
    with pytest.raises(MGMError, match="--streaming True"):
        run_training(words(flags | {"output_dir": tmp_path} | alone))
