"""The samples of an index equal those of the whole file, for every chunk size."""

import json
import pickle

import numpy as np
import pytest

from mgm.data.sources.json import json_index, json_text
from mgm.data.sources.json.json_file import read_samples
from mgm.data.sources.json.json_index import SUFFIX, SampleFile
from mgm.errors import MGMError


def turns(question: str, answer: str = "yes") -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


SAMPLES = [
    {"conversations": turns("plain words")},
    {"image": "a b.png", "conversations": turns("<image>\nWhat?", 'a "quoted" ] } word, \\ and [')},
    {"conversations": turns("Grüße 😀 日本", "é" * 40)},
    {"image": ["x.png", "ü.png"], "conversations": turns("<image><image> both")},
    {"no": "sample"},
    {"conversations": turns("last " * 30)},
]


@pytest.fixture(params=[1, 7, 64, json_text.JSON_CHUNK_BYTES])
def chunk_size(request, monkeypatch):
    monkeypatch.setattr(json_text, "JSON_CHUNK_BYTES", request.param)


def written(tmp_path, style: str):
    path = tmp_path / ("data.jsonl" if style == "lines" else "data.json")
    if style == "lines":
        text = "\n\n".join(json.dumps(sample, ensure_ascii=False) for sample in SAMPLES) + "\n"
    else:
        indent, ascii_only = {"dense": (None, True), "wide": (3, False)}[style]
        text = "\ufeff \n" + json.dumps(SAMPLES, indent=indent, ensure_ascii=ascii_only) + " \n"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("style", ["dense", "wide", "lines"])
def test_index_equals_the_whole_file(tmp_path, chunk_size, style):
    path = written(tmp_path, style)
    faults = []
    whole = read_samples(
        path, lambda number, fault: faults.append((number, fault.kind, str(fault)))
    )
    samples = SampleFile(path)
    assert samples.index.indices.tolist() == list(whole) == [0, 1, 2, 3, 5]
    assert [samples[row] for row in range(len(samples))] == list(whole.values())
    assert samples.index.words.tolist() == [sample.words for sample in whole.values()]
    assert samples.index.images.tolist() == [len(sample.images) for sample in whole.values()]
    names = [samples.index.image_names(row) for row in range(len(samples))]
    assert names == [sample.images for sample in whole.values()]
    assert samples.index.fault_list() == faults
    assert pickle.loads(pickle.dumps(samples))[-1] == samples[4]


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", "[{}", '[{"a": 1},]', "[1 2]", '[{"a": tru}]', "[] x", '["a"', "[" * 9999],
)
def test_errors_equal_those_of_the_whole_file(tmp_path, chunk_size, content):
    path = tmp_path / "data.json"
    path.write_text(content)
    with pytest.raises(MGMError) as expected:
        read_samples(path)
    with pytest.raises(MGMError) as caught:
        SampleFile(path)
    assert str(caught.value) == str(expected.value)


def test_unreadable_file(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(MGMError, match="cannot be read"):
            SampleFile(path)
    (tmp_path / "bytes.json").write_bytes(b'["\xff"]')
    with pytest.raises(MGMError, match=r"bytes\.json: is not UTF-8 \(byte 0xff at 2\)"):
        SampleFile(tmp_path / "bytes.json")


def test_index_is_saved_and_rebuilt_after_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(json_index, "SAVED_FROM", 0)
    path = written(tmp_path, "dense")
    first = SampleFile(path)
    assert path.with_name(path.name + SUFFIX).is_file()
    monkeypatch.setattr(json_index, "file_elements", None)  # the data file is not read again
    again = SampleFile(path)
    assert [again[row] for row in range(len(again))] == [first[row] for row in range(len(first))]
    monkeypatch.undo()
    path.write_text(json.dumps(SAMPLES[:2]))
    assert len(SampleFile(path)) == 2


def test_damaged_index_is_rebuilt(tmp_path, monkeypatch):
    monkeypatch.setattr(json_index, "SAVED_FROM", 0)
    path = written(tmp_path, "lines")
    SampleFile(path)
    saved = path.with_name(path.name + SUFFIX)
    saved.write_bytes(saved.read_bytes()[:200])
    assert len(SampleFile(path)) == 5
    with np.load(saved) as arrays:
        assert len(arrays["indices"]) == 5


def test_index_in_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(json_index, "SAVED_FROM", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = written(tmp_path, "dense")
    path.with_name(path.name + SUFFIX).mkdir()  # this path cannot be written
    (path.with_name(path.name + SUFFIX) / "taken").touch()
    SampleFile(path)
    assert len(list((tmp_path / "cache" / "mgm").iterdir())) == 1
