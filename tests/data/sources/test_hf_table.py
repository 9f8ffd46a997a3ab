"""Hugging Face data sets on the disk give the samples of the same JSON data."""

import json

import pytest
from PIL import Image

from mgm.data.sources.hf_table import TableFile, is_table
from mgm.data.sources.shards import shards_of
from mgm.errors import MGMError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# As datasets.Image() is stored; the class itself would embed the files when saving.
PICTURE = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}


@pytest.fixture
def rows(tmp_path):
    """A data set with images as bytes, as files, and without."""
    for number in range(3):
        Image.new("RGB", (8, 8), (number * 100, 0, 0)).save(tmp_path / f"{number}.png")
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a b"}]
    text = [{"from": "human", "value": "Say"}, {"from": "gpt", "value": "c"}]
    content = (tmp_path / "0.png").read_bytes()
    table = {
        "image": [{"bytes": content, "path": None}, {"bytes": None, "path": "1.png"}, None, None],
        "conversations": [talk, talk, text, talk],
    }
    features = datasets.Features(
        {
            "image": PICTURE,
            "conversations": [
                {"from": datasets.Value("string"), "value": datasets.Value("string")}
            ],
        }
    )
    return datasets.Dataset.from_dict(table, features=features)


def test_samples(rows, tmp_path):
    rows.save_to_disk(tmp_path / "saved")
    table = TableFile(str(tmp_path / "saved"))
    content = (tmp_path / "0.png").read_bytes()
    assert [table[row].images for row in range(3)] == [(content,), ("1.png",), ()]
    assert table.index.images.tolist() == [1, 1, 0]
    assert table.index.words.tolist() == [4, 4, 2]
    assert table.index.image_names(1) == ("1.png",)
    ((number, kind, fault),) = table.index.fault_list()
    assert (number, kind) == (3, "markers")
    assert "sample 3: 1 <image> marker but 0 images" in fault


def test_several_images_in_parquet_files(tmp_path):
    table = {
        "images": [[{"bytes": b"a", "path": None}, {"bytes": None, "path": "b.png"}], [], None],
        "texts": [[{"user": "u", "assistant": "v w"}]] * 3,
    }
    features = datasets.Features(
        {
            "images": [PICTURE],
            "texts": [{key: datasets.Value("string") for key in ("user", "assistant")}],
        }
    )
    (tmp_path / "parts").mkdir()
    for number in range(2):
        data = datasets.Dataset.from_dict(table, features=features)
        data.to_parquet(tmp_path / "parts" / f"train-{number}.parquet")
    parts = TableFile(str(tmp_path / "parts"))
    assert parts.index.images.tolist() == [2, 0, 0] * 2
    assert parts[3].images == (b"a", "b.png")
    assert parts[3].turns == (("<image>\n<image>\nu", "v w"),)
    assert parts[4].turns == (("u", "v w"),)
    alone = TableFile(str(tmp_path / "parts" / "train-1.parquet"))
    assert len(alone) == 3


def test_binary_columns(tmp_path):
    data = datasets.Dataset.from_dict({"jpg": [b"a", b"b"], "txt": ["one", "two"]})
    data.to_parquet(tmp_path / "t.parquet")
    table = TableFile(str(tmp_path / "t.parquet"))
    assert table.index.images.tolist() == [1, 1]
    assert [table[row].images for row in range(2)] == [(b"a",), (b"b",)]


def test_image_feature(tmp_path):
    file = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(file)
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    table = {"image": [str(file)], "text": ["black"]}
    datasets.Dataset.from_dict(table, features=features).save_to_disk(tmp_path / "saved")
    saved = TableFile(str(tmp_path / "saved"))
    assert saved[0].images == (file.read_bytes(),)


def test_index_is_cached(rows, tmp_path, monkeypatch):
    rows.save_to_disk(tmp_path / "saved")
    before = TableFile(str(tmp_path / "saved")).index
    monkeypatch.setattr(TableFile, "_elements", lambda _: pytest.fail("read again"))
    after = TableFile(str(tmp_path / "saved")).index
    assert after.words.tolist() == before.words.tolist()


def test_splits(rows, tmp_path):
    both = datasets.DatasetDict({"train": rows, "other": rows.select([2])})
    both.save_to_disk(tmp_path / "both")
    assert len(TableFile(str(tmp_path / "both"), split="other")) == 1
    with pytest.raises(MGMError, match="no split 'test'; valid: train, other"):
        TableFile(str(tmp_path / "both"), split="test")


@pytest.mark.parametrize(
    ("part", "fault"),
    [({"config": "a"}, "no config 'a'"), ({"split": "validation"}, "no split 'validation'")],
)
def test_config_and_split_of_files(rows, tmp_path, part, fault):
    """They would be ignored; default and empty values are accepted."""
    rows.save_to_disk(tmp_path / "saved")
    rows.to_parquet(tmp_path / "rows.parquet")
    for name in ("saved", "rows.parquet"):
        path = str(tmp_path / name)
        assert len(TableFile(path, "", "train")) == len(TableFile(path))
        with pytest.raises(MGMError, match=f"{name}: has {fault}: files are read whole; omit"):
            TableFile(path, **part)


def test_is_table(tmp_path):
    assert is_table("owner/name")
    assert is_table("a/b/c.parquet")
    assert not is_table("owner/name.json")
    assert not is_table(str(tmp_path))
    assert not is_table("a/b/c")
    (tmp_path / "data.json").write_text(json.dumps([]))
    assert not is_table(str(tmp_path / "data.json"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "format but empty"),
        (b'{"messages": []}', "if it is JSON"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"<!DOCTYPE html>", "an HTML or XML page"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        (b"PAR1 and no end", "is truncated"),
    ],
)
@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_files_of_other_types(tmp_path, content, words, ending):
    file = tmp_path / f"bad.{ending}"
    if ending == "arrow" and content.startswith(b"PAR1"):
        words = "a parquet table"
    file.write_bytes(content)
    for read in (TableFile, shards_of):
        with pytest.raises(MGMError, match=rf"bad\.{ending}: ") as caught:
            read(str(file))
        assert words in str(caught.value)


def test_missing_tables(tmp_path):
    with pytest.raises(MGMError, match=r"none\.parquet: cannot be read \(No such file"):
        TableFile(str(tmp_path / "none.parquet"))
