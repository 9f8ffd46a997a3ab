"""Headers of safetensors files: errors of the library are one-line errors here."""

import json
import struct

import pytest
import safetensors
import torch
from safetensors.torch import save_file

from mgm.errors import MGMError
from mgm.model.files.safetensors_header import SAFETENSORS_DTYPES, read_safetensors_header

A = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
B = {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}
DATA = bytes(32)


def written(header: object, data: bytes = DATA) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(**changes: object) -> dict[str, object]:
    """A header with two tensors, with changes of the first."""
    return {"a": A | changes, "b": B}


def without(field: str) -> dict[str, object]:
    return {"a": {name: value for name, value in A.items() if name != field}, "b": B}


GOOD = {
    "two tensors": written({"a": A, "b": B}),
    "in another order": written({"b": B, "a": A}),
    "metadata": written({"__metadata__": {"format": "pt"}, "a": A, "b": B}),
    "padded header": written(json.dumps({"a": A, "b": B}).encode() + b"   "),
    "a space first": written(b" " + json.dumps({"a": A, "b": B}).encode()),
    "no tensors": written({}, b""),
    "an empty tensor": written(
        {"a": A, "b": B, "c": {"dtype": "F16", "shape": [0, 9], "data_offsets": [32, 32]}}
    ),
    "a number": written({"a": {"dtype": "F64", "shape": [], "data_offsets": [0, 8]}}, bytes(8)),
}
DAMAGED = {
    # the file
    "nothing": b"",
    "seven bytes": bytes(7),
    "a length alone": struct.pack("<Q", 40),
    "a length beyond the file": struct.pack("<Q", 10**6) + b"{}",
    "a length beyond the limit": struct.pack("<Q", 100_000_001) + b"{}",
    "a length of 64 bits": struct.pack("<Q", 2**64 - 1) + b"{}",
    "an empty header": struct.pack("<Q", 0),
    "zeros": bytes(200),
    "a pickle": b"\x80\x02}q\x00." * 20,
    "one byte short": written({"a": A, "b": B}, DATA[:-1]),
    "one byte more": written({"a": A, "b": B}, DATA + b"x"),
    "no data": written({"a": A, "b": B}, b""),
    "cut in the header": written({"a": A, "b": B})[:60],
    # the text
    "no JSON": written(b"{" + b"x" * 40),
    "half of the JSON": written(json.dumps({"a": A}).encode()[:-4]),
    "text behind the JSON": written(json.dumps({"a": A, "b": B}).encode() + b"{}"),
    "a byte order mark": written(b"\xef\xbb\xbf" + json.dumps({"a": A, "b": B}).encode()),
    "utf-16": written(json.dumps({"a": A, "b": B}).encode("utf-16")),
    "latin-1": written('{"Müller": 1}'.encode("latin-1")),
    "lone surrogate": written({"\ud800": A, "b": B}),
    "deep nesting": written(b'{"a":' * 100_000),
    "a list": written([A, B]),
    "null": written(b"null"),
    "a string": written(b'"a"'),
    "a number of 5,000 digits": written(b'{"a": ' + b"9" * 5000 + b"}"),
    "NaN": written(entry(shape=[float("nan")])),
    # the entries
    "an entry that is null": written({"a": None, "b": B}),
    "an entry that is a list": written({"a": [1], "b": B}),
    "an entry that is text": written({"a": "F32", "b": B}),
    "an empty entry": written({"a": {}, "b": B}),
    "no dtype": written(without("dtype")),
    "no shape": written(without("shape")),
    "no offsets": written(without("data_offsets")),
    "an unknown dtype": written(entry(dtype="F99")),
    "a dtype of 100,000 letters": written(entry(dtype="F" * 100_000)),
    "a dtype in small letters": written(entry(dtype="f32")),
    "a dtype that is a number": written(entry(dtype=32)),
    "a dtype that is a list": written(entry(dtype=["F32"])),
    "a dtype of another size": written(entry(dtype="F64")),
    "a shape that is null": written(entry(shape=None)),
    "a shape that is a number": written(entry(shape=6)),
    "a shape that is text": written(entry(shape="23")),
    "a shape of texts": written(entry(shape=["2", "3"])),
    "a shape of fractions": written(entry(shape=[2.0, 3.0])),
    "a shape of true": written(entry(shape=[True, 6])),
    "a negative shape": written(entry(shape=[-2, -3])),
    "a nested shape": written(entry(shape=[[2, 3]])),
    "another shape": written(entry(shape=[2, 4])),
    "a shape that overflows": written(entry(shape=[2**62, 2**62, 2**62])),
    "a shape that wraps to 6": written(entry(shape=[2**63 + 3, 2])),
    "a size beyond 64 bits": written(entry(shape=[2**64 + 6])),
    "offsets that are null": written(entry(data_offsets=None)),
    "one offset": written(entry(data_offsets=[24])),
    "three offsets": written(entry(data_offsets=[0, 24, 48])),
    "offsets that are texts": written(entry(data_offsets=["0", "24"])),
    "offsets that are fractions": written(entry(data_offsets=[0.0, 24.0])),
    "offsets of true": written(entry(data_offsets=[False, 24])),
    "negative offsets": written(entry(data_offsets=[-24, 0])),
    "offsets in the wrong order": written(entry(data_offsets=[24, 0])),
    "offsets beyond the file": written(entry(data_offsets=[32, 56])),
    "offsets beyond 64 bits": written(entry(data_offsets=[2**64, 2**64 + 24])),
    "an overlap": written({"a": A, "b": B | {"data_offsets": [20, 28]}}, bytes(28)),
    "the same range twice": written({"a": A, "b": A}, bytes(24)),
    "a gap": written({"a": A, "b": B | {"data_offsets": [28, 36]}}, bytes(36)),
    "a gap before the first": written({"a": A | {"data_offsets": [8, 32]}}),
    "an empty tensor beyond the file": written(
        {"a": A, "b": B, "c": {"dtype": "F16", "shape": [0], "data_offsets": [90, 90]}}
    ),
    # the metadata
    "metadata that are a list": written({"__metadata__": ["pt"], "a": A, "b": B}),
    "metadata that are text": written({"__metadata__": "pt", "a": A, "b": B}),
    "metadata of numbers": written({"__metadata__": {"epoch": 3}, "a": A, "b": B}),
    "metadata of objects": written({"__metadata__": {"a": {"b": "c"}}, "a": A, "b": B}),
    "metadata of nulls": written({"__metadata__": {"a": None}, "a": A, "b": B}),
}
# Accepted by the library, and an error here: one of two tensors of a name would be lost silently.
STRICTER = {
    "a name of 100,000 letters": written({"a": A, "b" * 100_000: B}),
    "a tensor twice": written(
        b'{"a": {"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},'
        b' "a": {"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}',
        bytes(24),
    ),
    "a shape with no values that overflows": written(
        {"a": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}, b""
    ),
}


def library_takes(file) -> bool:
    try:
        with safetensors.safe_open(file, "pt"):
            return True
    except (safetensors.SafetensorError, OSError):
        return False


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD)
def test_valid_headers_equal_the_library(tmp_path, content) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with safetensors.safe_open(file, "pt") as theirs:
        names = set(theirs.keys())
        shapes = {name: tuple(theirs.get_slice(name).get_shape()) for name in names}
    assert {tensor.name: tensor.shape for tensor in read_safetensors_header(file)} == shapes


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_headers(tmp_path, content) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    assert not library_takes(file)
    with pytest.raises(MGMError) as raised:
        read_safetensors_header(file)
    text = str(raised.value)
    assert text.startswith(f"{file}: ")
    assert len(text) < len(str(file)) + 300
    assert text.isprintable()


@pytest.mark.parametrize("content", STRICTER.values(), ids=STRICTER)
def test_headers_that_the_library_accepts(tmp_path, content) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(MGMError, match=r"model\.safetensors: ") as raised:
        read_safetensors_header(file)
    assert len(str(raised.value)) < len(str(file)) + 300


def test_dtypes_equal_the_library(tmp_path) -> None:
    tensors = {name: torch.zeros(3).to(dtype) for name, dtype in SAFETENSORS_DTYPES.items()}
    save_file(tensors, tmp_path / "a.safetensors")
    header = read_safetensors_header(tmp_path / "a.safetensors")
    assert {tensor.name: tensor.dtype for tensor in header} == SAFETENSORS_DTYPES
