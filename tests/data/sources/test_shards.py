"""Shards: their records from any start index, and retries of lost connections."""

import json
import sys

import pytest

from mgm.data.sources import shards as module
from mgm.data.sources.formats.record import parse_sample
from mgm.data.sources.sample import SampleError
from mgm.data.sources.shards import JSONShard, TarShard, records_of, shards_of
from mgm.errors import MGMError
from tests.data.shards import server, write_latin_row, write_tar

TALK = [{"from": "human", "value": "Say"}, {"from": "gpt", "value": "c"}]


@pytest.fixture
def tar(tmp_path):
    members: list[tuple[str, bytes | str]] = [
        ("d/0.jpg", b"0" * 5000),
        ("d/0.txt", "a word\n"),
        ("d/.hidden", "x"),
        ("d/1.json", json.dumps({"conversations": TALK, "image": None})),
        ("d/2.seg.png", b"2"),
        ("d/2.json", json.dumps(TALK)),
        ("e/2.JSON", "{"),
        ("e/3.cls", "7"),
    ]
    return write_tar(tmp_path / "a.tar", members)


def check_rows(shard) -> None:
    rows = list(records_of(shard, 0))
    assert rows[0] == {"jpg": b"0" * 5000, "txt": "a word\n"}
    assert rows[1] == {"conversations": TALK, "image": None}
    assert rows[2] == {"conversations": TALK, "seg.png": b"2"}
    assert isinstance(rows[3], SampleError)
    assert "sample 3: is not valid JSON" in str(rows[3])
    assert rows[4] == {"cls": b"7"}
    assert len(rows) == 5
    for start in range(6):
        assert list(map(str, records_of(shard, start))) == list(map(str, rows[start:]))


def test_tar(tar):
    check_rows(TarShard(str(tar)))


def test_gzipped_tar(tar, tmp_path):
    import gzip

    packed = tmp_path / "b.tar.gz"
    packed.write_bytes(gzip.compress(tar.read_bytes()))
    (shard,) = shards_of(str(packed))
    check_rows(shard)


def test_over_http(tar, tmp_path):
    pytest.importorskip("aiohttp", reason="fsspec reads http with it")
    with server(tmp_path) as address:
        check_rows(TarShard(f"{address}/a.tar"))


def test_broken_connections_are_retried(tar, tmp_path, monkeypatch):
    pytest.importorskip("aiohttp", reason="fsspec reads http with it")
    monkeypatch.setattr(module, "SHARD_RETRY_DELAY", 0.01)
    with server(tmp_path, break_after=2000) as address:
        check_rows(TarShard(f"{address}/a.tar"))


def test_missing_package_of_a_url_scheme(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MGMError, match=r"^s3://a/b\.tar: Install s3fs .*; install that package"):
        list(records_of(TarShard("s3://a/b.tar"), 0))


def test_json_lines(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('\ufeff{"conversations": 1}\n\n{"conversations": 2}\n{', encoding="utf-8")
    rows = list(records_of(JSONShard(str(file)), 0))
    assert rows[:2] == [{"conversations": 1}, {"conversations": 2}]
    assert "sample 2, line 4: is not valid JSON" in str(rows[2])
    assert next(iter(records_of(JSONShard(str(file)), 1))) == {"conversations": 2}


def test_tables(tmp_path):
    datasets = pytest.importorskip("datasets")
    for number in range(2):
        rows = {"txt": [f"{number} {row}" for row in range(3)], "jpg": [b"i"] * 3}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / f"{number}.parquet")
    first, second = shards_of(f"{tmp_path}/*.parquet")
    assert [row["txt"] for row in records_of(second, 1)] == ["1 1", "1 2"]
    assert next(records_of(first, 0))["jpg"] == b"i"


def test_images_of_streamed_tables_are_bytes(tmp_path):
    datasets = pytest.importorskip("datasets")
    table = {"image": [{"bytes": b"no image", "path": None}], "text": ["a"]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / "t.parquet")
    (shard,) = shards_of(str(tmp_path / "t.parquet"))
    assert next(records_of(shard, 0))["image"] == {"bytes": b"no image", "path": None}


def test_names(tmp_path):
    names = [shard.name for shard in shards_of("s3://b/{0..1}/x-{008..010}.tar")]
    assert names[:3] == ["s3://b/0/x-008.tar", "s3://b/0/x-009.tar", "s3://b/0/x-010.tar"]
    assert len(names) == 6
    with pytest.raises(MGMError, match="no file matches this pattern"):
        shards_of(f"{tmp_path}/*.tar")
    for name in ("a.tar", "b.json"):
        (tmp_path / name).touch()
    with pytest.raises(MGMError, match="matches files of several types"):
        shards_of(f"{tmp_path}/*")


@pytest.mark.parametrize(
    ("length", "problem"), [(700, "cannot be read"), (0, "is empty")], ids=["in a member", "empty"]
)
def test_damaged_file(tar, length, problem):
    tar.write_bytes(tar.read_bytes()[:length])
    with pytest.raises(MGMError, match=rf"a\.tar: {problem}"):
        list(records_of(TarShard(str(tar)), 0))


def test_missing_file(tmp_path):
    with pytest.raises(MGMError, match=r"a\.tar: cannot be read"):
        list(records_of(TarShard(str(tmp_path / "a.tar")), 0))


def test_missing_remote_file(tmp_path):
    pytest.importorskip("aiohttp", reason="fsspec reads http with it")
    with server(tmp_path) as address, pytest.raises(MGMError, match=r"a\.tar: cannot be read"):
        list(records_of(TarShard(f"{address}/a.tar"), 0))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>", "is not a tar archive but an HTML"),
        (b'[{"messages": []}]', "is not a tar archive but JSON"),
        (b"PAR1", "is not a tar archive but a parquet table"),
        (b"PK\x03\x04", "is not a tar archive but a zip archive"),
        (b"version https://git-lfs.github.com/spec/v1", "but a Git LFS pointer"),
        (b"", "is empty; download or copy it again"),
        (b"\x1f\x8b and no more", "cannot be read"),
    ],
)
def test_renamed_files(tmp_path, content, words):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(MGMError, match=r"a\.tar: ") as caught:
        list(records_of(TarShard(str(tmp_path / "a.tar")), 0))
    assert words in str(caught.value)


def test_gzipped_tar_with_extension_tar(tar, tmp_path):
    import gzip

    tar.write_bytes(gzip.compress(tar.read_bytes()))
    check_rows(TarShard(str(tar)))


def test_member_that_is_not_utf_8(tmp_path):
    file = write_tar(tmp_path / "a.tar", [("0.txt", "caf\u00e9".encode("latin-1"))])
    (fault,) = records_of(TarShard(str(file)), 0)
    assert "sample 0: 0.txt ends within a UTF-8 character, at byte 3; copy it again or" in str(
        fault
    )
    assert "if it is Latin-1 or Windows-1252, save it in UTF-8" in str(fault)


def test_images_in_messages_of_a_table_are_bytes(tmp_path):
    datasets = pytest.importorskip("datasets")
    part = {"type": datasets.Value("string"), "image": datasets.Image()}
    features = datasets.Features(
        {"messages": [{"role": datasets.Value("string"), "content": [part]}]}
    )
    held = {"type": "image", "image": {"bytes": b"no image", "path": None}}
    table = {"messages": [[{"role": "user", "content": [held]}]]}
    data = datasets.Dataset.from_dict(table, features=features)
    data.to_parquet(tmp_path / "t.parquet")
    (shard,) = shards_of(str(tmp_path / "t.parquet"))
    ((message,),) = (row["messages"] for row in records_of(shard, 0))
    assert message["content"] == [held]


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_row_that_is_not_utf_8_is_one_bad_sample(tmp_path, start):
    pytest.importorskip("datasets")
    (shard,) = shards_of(str(write_latin_row(tmp_path / "t.parquet")))
    rows = list(records_of(shard, start))
    texts = ["text 0", "text 1", None, "text 3", "text 4"]
    assert [row.get("text") if isinstance(row, dict) else None for row in rows] == texts[start:]
    if start < 3:
        with pytest.raises(SampleError, match="t: sample 2: contains text that is not UTF-8"):
            parse_sample(rows[2 - start], "t: sample 2")


def test_local_tables_are_not_retried(tmp_path, monkeypatch):
    """A retry would fail, too."""
    pytest.importorskip("datasets")
    monkeypatch.setattr(module.time, "sleep", lambda _: pytest.fail("waits"))
    file = write_latin_row(tmp_path / "t.parquet")
    (shard,) = shards_of(str(file))
    content = file.read_bytes()
    file.write_bytes(content[:4] + b"\xff" * 60 + content[64:])
    with pytest.raises(MGMError, match=r"t\.parquet: part 0: cannot be read \("):
        list(records_of(shard, 0))


@pytest.mark.parametrize("split", [None, "train"])
def test_save_to_disk_folder(tmp_path, split):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"txt": ["a", "b", "c"], "jpg": [b"i"] * 3})
    if split is None:
        table.save_to_disk(tmp_path / "saved", num_shards=2)
    else:
        datasets.DatasetDict({split: table}).save_to_disk(tmp_path / "saved", num_shards={split: 2})
    shards = shards_of(str(tmp_path / "saved"))
    assert len(shards) == 2
    rows = [row for shard in shards for row in records_of(shard, 0)]
    assert rows == table.to_list()
    if split is not None:
        with pytest.raises(MGMError, match=r"saved: has no split 'test'; valid: train$"):
            shards_of(str(tmp_path / "saved"), split="test")


def test_folder_of_tables(tmp_path):
    """Only its tables are read, as without streaming."""
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "all.parquet"
    folder.mkdir()
    (folder / "notes.json").write_text("[]")
    for number in range(2):
        datasets.Dataset.from_dict({"txt": [str(number)]}).to_parquet(folder / f"{number}.parquet")
    shards = shards_of(str(folder))
    assert [row["txt"] for shard in shards for row in records_of(shard, 0)] == ["0", "1"]


@pytest.mark.parametrize("name", ["a.tar", "a.jsonl", "a.json"])
def test_config_and_split_of_files(tmp_path, name):
    (tmp_path / name).touch()
    path = str(tmp_path / name)
    assert len(shards_of(path, None, "train")) == 1
    for part in ({"config": "c"}, {"split": "test"}):
        with pytest.raises(MGMError, match=f"{name}: has no .*: files are read whole; omit"):
            shards_of(path, **part)


def test_other_form_is_logged_once(tmp_path, caplog):
    file = tmp_path / "lines.json"
    file.write_text('{"conversations": 1}\n{"conversations": 2}')
    (shard,) = shards_of(str(file))
    for _ in range(3):
        assert len(list(records_of(shard, 0))) == 2
    (message,) = caplog.messages
    assert message == f"{file}: contains JSON lines, not a JSON list; it is read as JSON lines"
