"""JSONL store: damaged lines and full disks."""

import json

import pytest

from mgm.errors import MGMError
from mgm.eval.harness.jsonl_store import JSONLStore, load_texts
from tests.eval.full_disk import full_after

ODD_LINES = [
    "", " ", "null", "7", "[]", '"key"', "{", "{}", '{"key": "a"}', '{"text": "a"}',
    '{"key": 1, "text": "a"}', '{"key": ["a"], "text": "a"}', '{"key": "a", "text": null}',
    '{"key": "a", "text": 5}', '{"key": "a", "text": {"text": ["nested"]}}', "[" * 50_000,
    '{"key": "a", "text": "' + "x" * 100_000, "\x00\x00\x00", '{"key": NaN, "text": Infinity}',
]  # fmt: skip


@pytest.mark.parametrize("line", ODD_LINES)
def test_damaged_line_is_skipped(tmp_path, line):
    file = tmp_path / "a.jsonl"
    good = [json.dumps({"key": name, "text": f"text {name}"}) for name in ("b", "c")]
    file.write_text("\n".join((good[0], line, good[1])) + "\n")
    assert load_texts(file) == ({"b": "text b", "c": "text c"}, 1)
    file.write_text("\n".join((*good, line)))  # the last line, without a line break
    texts, _ = load_texts(file)
    JSONLStore(file).append("d", "text d")
    assert load_texts(file)[0] == texts | {"d": "text d"}


def test_invalid_utf8(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"key": "a", "text": "\xff"}\n{"key": "b", "text": "\\ud83d"}\n')
    assert load_texts(file) == ({"b": "\ufffd"}, 1)
    JSONLStore(file).append("c", "\ud83d \u2028 \n")
    assert load_texts(file)[0]["c"] == "\ufffd \u2028 \n"


def test_full_disk(tmp_path):
    file = tmp_path / "answers-0.jsonl"
    texts = JSONLStore(file)
    texts.append("a", "first")
    with (
        full_after(200),
        pytest.raises(MGMError, match=r"answers-0\.jsonl: could not be written \(File too large\)"),
    ):
        texts.append("b", "x" * 1000)
    texts.append("c", "third")  # there is space again
    assert load_texts(file)[0] == {"a": "first", "c": "third"}
