"""Fingerprints compare data by content, independent of its path."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mgm.data.datasets import fingerprint
from mgm.data.datasets.fingerprint import data_fingerprint
from mgm.data.datasets.mixture import MixedDataset
from mgm.data.datasets.streaming import StreamedDataset
from mgm.data.datasets.training_dataset import TrainingDataset
from mgm.data.sources.hf_table import TableFile
from mgm.data.sources.json.json_index import SampleFile
from mgm.data.sources.mixture_config import read_mixture
from mgm.data.sources.shards import shards_of


def sample(text: str, image: str | None = None) -> dict:
    marker = "" if image is None else "<image>\n"
    turns = [{"from": "human", "value": f"{marker}a?"}, {"from": "gpt", "value": text}]
    return {"conversations": turns} | ({} if image is None else {"image": image})


def bare(kind: type, **fields: object) -> object:
    """A data set with the attributes that a fingerprint reads, without processor and model."""
    made = kind.__new__(kind)
    vars(made).update(fields)
    return made


def opened(path: Path) -> object:
    samples = TableFile(str(path)) if path.suffix in ("", ".parquet") else SampleFile(path)
    rows = np.arange(len(samples))
    return bare(TrainingDataset, path=path, image_folder=path.parent, samples=samples, rows=rows)


def of(path: Path) -> dict:
    return data_fingerprint(opened(path), "--data_path")


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "first"
    folder.mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    (folder / "data.json").write_text(json.dumps([sample("one", "a.png"), sample("two")]))
    return folder / "data.json"


def digests(fingerprint: dict) -> list[str]:
    return [value["sha256"] for value in fingerprint.values() if isinstance(value, dict)]


def test_moved_folder(data, tmp_path):
    before = of(data)
    moved = shutil.copytree(data.parent, tmp_path / "second") / "data.json"
    assert digests(of(moved)) == digests(before)
    assert of(moved)["--data_path"]["path"] == str(moved)


def test_same_sizes_with_other_content(data):
    before = of(data)
    data.write_text(data.read_text().replace("two", "six"))
    after = of(data)
    assert after["--data_path"] != before["--data_path"]
    assert after["images of --data_path"] == before["images of --data_path"]


def test_replaced_image(data):
    before = of(data)
    Image.new("RGB", (8, 8), "blue").save(data.parent / "a.png")
    after = of(data)
    assert after["--data_path"] == before["--data_path"]
    assert after["images of --data_path"] != before["images of --data_path"]


def test_content_of_tables(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [sample("one"), sample("two")]
    seen = []
    for name, texts in (("a", rows), ("b", rows), ("c", [sample("one"), sample("six")])):
        folder = tmp_path / name
        folder.mkdir()
        datasets.Dataset.from_list(texts).to_parquet(folder / "rows.parquet")
        seen += digests(of(folder))
    assert seen[0] == seen[1] != seen[2]


def test_parts_and_weights_of_a_mixture(data):
    (data.parent / "more.json").write_text(json.dumps([sample("three")]))
    mixture = data.parent / "mixture.json"
    seen = []
    for weight in (1, 2):
        entries = [{"path": "data.json", "weight": weight}, {"path": "more.json"}]
        mixture.write_text(json.dumps({"datasets": entries}))
        sources = read_mixture(mixture)
        parts = [opened(Path(source.path)) for source in sources]
        seen.append(
            data_fingerprint(bare(MixedDataset, parts=parts, sources=sources), "--data_path")
        )
    different = {name for name in seen[0] if seen[0][name] != seen[1][name]}
    assert different == {"weight of --data_path part 0"}
    assert seen[0]["parts of --data_path"] == 2
    assert seen[0]["--data_path part 1"]["path"].endswith("more.json")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_content_of_local_shards(tmp_path, form):
    datasets = pytest.importorskip("datasets")

    def write(folder: str, last: str) -> dict:
        (tmp_path / folder).mkdir()
        for number, text in enumerate(("one", last)):
            file = tmp_path / folder / f"{number}.{form}"
            if form == "jsonl":
                file.write_text(json.dumps(sample(text)))
            else:
                datasets.Dataset.from_list([sample(text)]).to_parquet(file)
        path = str(tmp_path / folder / f"*.{form}")
        source = SimpleNamespace(path=path, weight=1.0)
        stream = bare(StreamedDataset, shards=[shards_of(path)], sources=[source])
        return data_fingerprint(stream, "--data_path")

    first, moved, other = write("a", "two"), write("b", "two"), write("c", "six")
    assert digests(first) == digests(moved) != digests(other)
    assert first["shards of --data_path"] == 2


def test_names_of_remote_shards(tmp_path):
    def fingerprint_of(url: str) -> dict:
        source = SimpleNamespace(path=url, weight=1.0)
        stream = bare(StreamedDataset, shards=[shards_of(url)], sources=[source])
        return data_fingerprint(stream, "--data_path")

    one, other = "https://a.org/{00..03}.tar", "https://a.org/{00..04}.tar"
    assert (
        digests(fingerprint_of(one))
        == digests(fingerprint_of(one))
        != digests(fingerprint_of(other))
    )


def test_images_are_sampled(data, monkeypatch):
    for number in range(100):
        shutil.copy(data.parent / "a.png", data.parent / f"{number}.png")
    data.write_text(json.dumps([sample("x", f"{number}.png") for number in range(100)]))
    files = []
    kept = fingerprint.digest_of
    monkeypatch.setattr(
        fingerprint, "digest_of", lambda given: files.append(list(given)) or kept(files[-1])
    )
    of(data)
    names = [file.name for file in files[-1]]
    assert len(names) == fingerprint.IMAGES
    assert names[0] == "0.png"
    assert names[-1] == "99.png"
