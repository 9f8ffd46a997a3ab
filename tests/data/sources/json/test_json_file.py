"""JSON files: detection by content, and errors for other files."""

import gzip
import json
import tracemalloc

import pytest

from mgm.data.sources.formats.record import parse_sample
from mgm.data.sources.json import json_text
from mgm.data.sources.json.json_file import file_elements, read_samples
from mgm.data.sources.json.json_index import SampleFile
from mgm.data.sources.shards import JSONShard, records_of
from mgm.errors import MGMError

HUMAN = {"from": "human", "value": "what?"}
MODEL = {"from": "gpt", "value": "a cat"}


def test_lists_and_lines(write_samples):
    good = {"conversations": [HUMAN, MODEL]}
    listed = read_samples(write_samples([good, good]))
    line = json.dumps(good)
    lines = read_samples(write_samples(f"{line}\n\n{line}\n", "data.jsonl"))
    assert listed == lines
    assert len(lines) == 2
    marked = read_samples(write_samples("\ufeff" + json.dumps([good, good])))
    assert marked == read_samples(write_samples(f"\ufeff{line}\n{line}", "data.jsonl")) == lines


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("[{]", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("{}", "is an object, not a list of samples"),
        ("[]", "contains no samples"),
        ('[{"conversations": 1}]', "data.json: sample 0: 'conversations' is a number"),
    ],
)
def test_errors_of_files(write_samples, content, message):
    path = write_samples(content)
    with pytest.raises(MGMError) as caught:
        read_samples(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path, write_samples):
    with pytest.raises(MGMError, match=r"none.json: cannot be read \(No such file"):
        read_samples(tmp_path / "none.json")
    with pytest.raises(MGMError, match="cannot be read"):
        read_samples(tmp_path)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MGMError, match=r"bytes.json: is UTF-16 text"):
        read_samples(tmp_path / "bytes.json")
    with pytest.raises(MGMError, match="line 2: is not valid JSON"):
        read_samples(
            write_samples(f'{json.dumps({"conversations": [HUMAN, MODEL]})}\n{{"b"', "data.jsonl")
        )


GOOD = {"conversations": [HUMAN, MODEL]}
LINE = json.dumps(GOOD)
WIDE = json.dumps(GOOD, indent=2)
LISTED = json.dumps([GOOD, GOOD, GOOD])
LATIN = LINE.replace("a cat", "caf\u00e9").encode("latin-1")


def samples_of(dataset):
    return list(dataset) or dataset.index.fault_list()[0][2]


def readings(path):
    """Results or one-line errors of every reader of data files."""
    for read in (
        lambda: list(read_samples(path).values()),
        lambda: samples_of(SampleFile(path)),
        lambda: [
            parse_sample(row, f"{path}: sample {number}")
            for number, row in enumerate(records_of(JSONShard(str(path)), 0))
        ],
    ):
        try:
            yield read()
        except MGMError as error:
            yield str(error)


@pytest.mark.parametrize(
    ("name", "content", "count"),
    [
        ("lines.json", f"{LINE}\n\n{LINE}\r\n{LINE}", 3),
        ("one line.json", LINE, 1),
        ("one.json", WIDE, 1),
        ("list.jsonl", LISTED, 3),
        ("wide list.jsonl", json.dumps([GOOD, GOOD], indent=1), 2),
        ("objects.jsonl", f"{WIDE}\n{WIDE}\n", 2),
        ("objects.json", f"{WIDE}\n\n{WIDE}{LINE}", 3),
        ("marked.json", f"\ufeff\n {LINE}\n{LINE}", 2),
        ("lines.ndjson", f"{LINE}\n{LINE}", 2),
        ("data.txt", LISTED, 3),
        ("long line.json", f'{LINE[:-1]}, "id": "{"x" * 2**20}"}}\n{LINE}', 2),
    ],
)
def test_json_with_another_extension(tmp_path, name, content, count):
    path = tmp_path / name
    path.write_bytes(content.encode())
    for reading in readings(path):
        assert len(reading) == count, reading
        assert [sample.turns for sample in reading] == [(("what?", "a cat"),)] * count


def test_other_form_is_logged(tmp_path, caplog):
    for name, content in (("lines.json", f"{LINE}\n{LINE}"), ("list.jsonl", LISTED)):
        (tmp_path / name).write_text(content)
        read_samples(tmp_path / name)
    first, second = caplog.messages
    assert first.endswith(
        "lines.json: contains JSON lines, not a JSON list; it is read as JSON lines"
    )
    assert second.endswith("list.jsonl: contains a JSON list, not JSON lines; it is read as a list")


@pytest.mark.parametrize("name", ["data.json", "data.jsonl", "data.yaml", "data"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; download or copy it again"),
        (b" \n \n", "is not valid JSON: it contains only whitespace"),
        (gzip.compress(LISTED.encode(), mtime=0), "is a gzip archive; decompress it"),
        (b"PK\x03\x04 and more", "is a zip archive"),
        (b"PAR1 and more", "is a parquet table"),
        (b"ARROW1\0\0", "is an arrow table"),
        (b"<!DOCTYPE html><html>", "is an HTML or XML page"),
        (b"\n<?xml version='1.0'?>", "is an HTML or XML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
        (LISTED.encode("utf-16"), "is UTF-16 text; save it in UTF-8"),
        (LISTED.encode("utf-32"), "is UTF-32 text"),
        (LISTED.encode("utf-16-le"), "is UTF-16 text without a byte order mark"),
        (LISTED.encode("utf-16-be"), "is UTF-16 text without a byte order mark"),
        (bytes(5000), "is all NUL bytes"),
        (b"abc\0\0", "is binary"),
        (b"\x89PNG\r\n\x1a\n", "is a PNG image"),
        (b"\x80\x04\x95", "is a Python pickle"),
        (b"x" * 257 + b"ustar\0", "is a tar"),
        (f"[{LATIN.decode('latin-1')}]".encode("latin-1"), "is not UTF-8 (byte 0xe9 at "),
        (LISTED[: len(LISTED) // 2].encode(), "is not valid JSON at sample 1, byte "),
        (LISTED[:-1].encode(), "at sample 3, byte "),
        (f"{LISTED} {LISTED}".encode(), "data after the end of the list"),
        ("\u4f60\u597d".join(("[", LISTED)).encode("gbk"), "perhaps GBK, Big5 or Shift JIS"),
        (f'{{"name": "all", "datasets": {LISTED}}}'.encode(), "is not a valid mixture"),
        (f'{{"data": {LISTED}}}'.encode(), "a list in 'data', not a list of samples"),
        (f'{{\n"info": {{}},\n"annotations": {LISTED}}}'.encode(), "a list in 'annotations'"),
        (b"{}", "is an object"),
        (f"[{LINE} {LINE}]".encode(), "missing comma"),
        (f"[{LINE},]".encode(), "is not valid JSON at sample 1"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value[:30],
)
def test_errors_of_other_file_types(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    if name == "data.jsonl" and content == b"{}":
        words = "sample 0: has no conversation"
    for reading in readings(path):
        assert isinstance(reading, str)
        assert reading.startswith(f"{path}: ")
        assert words in reading
        assert len(reading) < 400


@pytest.mark.parametrize("name", ["data.csv", "data.tsv"])
def test_csv(tmp_path, name):
    path = tmp_path / name
    path.write_text("image,question,answer\na.png,What?,A cat\n")
    for reading in readings(path):
        assert "is CSV; convert each row to a JSON object" in reading


def test_yaml(tmp_path):
    path = tmp_path / "mixture.yaml"
    path.write_text("datasets:\n  - path: a.json\n")
    for reading in readings(path):
        assert "is YAML; write a mixture as JSON" in reading


@pytest.mark.parametrize(
    "bad", [LATIN, b"{", b"\0" * 9, b"nonsense", LINE[:40].encode(), b'{"a": NaN'], ids=repr
)
@pytest.mark.parametrize("name", ["data.jsonl", "data.json"])
def test_malformed_line_is_one_bad_sample(tmp_path, bad, name):
    path = tmp_path / name
    path.write_bytes(LINE.encode() + b"\n" + bad + b"\n" + LINE.encode())
    faults = {}
    assert list(read_samples(path, lambda number, fault: faults.update({number: fault}))) == [0, 2]
    index = SampleFile(path).index
    assert index.indices.tolist() == [0, 2]
    ((number, _, fault),) = index.fault_list()
    assert number == 1
    assert fault == str(faults[1])
    assert fault.startswith(f"{path}: sample 1, line 2: is not ")
    assert len(list(records_of(JSONShard(str(path)), 0))) == 3


def test_memory_is_limited_by_the_chunk_size(tmp_path, monkeypatch):
    monkeypatch.setattr(json_text, "JSON_CHUNK_BYTES", 2**16)
    path = tmp_path / "data.json"
    path.write_text(json.dumps([GOOD | {"id": "x" * 1000}] * 4000)[:-1] + ', {"a": tru}]')
    tracemalloc.start()
    try:
        with pytest.raises(MGMError, match=r"at sample 4000, byte 4,\d+,\d+ \(Expecting value\)"):
            for _ in file_elements(path):
                pass
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
