"""Truncated, damaged and concatenated tars are errors for every reader."""

import bz2
import gzip
import json
import lzma

import pytest

from mgm.data.doctor.__main__ import main
from mgm.data.sources import shards as module
from mgm.data.sources.formats.record import parse_sample
from mgm.data.sources.sample import SampleError
from mgm.data.sources.shards import TarShard, records_of
from mgm.errors import MGMError
from tests.data.shards import server, write_tar

TALK = [{"from": "human", "value": "<image>\nSay"}, {"from": "gpt", "value": "c"}]
BLOCK = 512
MEMBERS = [
    member
    for number in range(8)
    for member in (
        (f"{number}.json", json.dumps({"conversations": TALK})),
        (f"{number}.png", b"a" * 30),
    )
]
END = 2 * BLOCK * len(MEMBERS)  # end of the last member: each is a header and a block


def rows(file):
    return list(records_of(TarShard(str(file)), 0))


@pytest.fixture
def content(tmp_path):
    return write_tar(tmp_path / "whole.tar", MEMBERS).read_bytes()


def plain(data: bytes) -> bytes:
    return data


PACKING = pytest.mark.parametrize("packed", [plain, gzip.compress, bz2.compress, lzma.compress])


@PACKING
@pytest.mark.parametrize("cut", [4096, 8192, 10240, 10440, 10751, 11264, END, END + 511])
def test_truncated_tar(content, tmp_path, capsys, packed, cut):
    """Between members, within a header, and within the end-of-archive block."""
    file = tmp_path / "a.tar"
    file.write_bytes(packed(content[:cut]))
    with pytest.raises(MGMError, match=r"a\.tar: is truncated after '\d\."):
        rows(file)
    with pytest.raises(MGMError, match="no end-of-archive block"):
        main([str(file)])
    assert "can be used" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["0", "{0}", "[0]"])
@pytest.mark.parametrize("mark", [True, False])
def test_any_first_member(tmp_path, name, mark):
    """Pre-POSIX headers have no magic bytes; a file name may start like JSON."""
    file = write_tar(tmp_path / "a.tar", [(f"{name}.json", "[]"), (f"{name}.png", b"a")])
    content = bytearray(file.read_bytes())
    if not mark:
        for start in (0, 2 * BLOCK):
            header = content[start : start + BLOCK]
            header[257:345] = bytes(88)  # magic, version, user and group names
            header[148:156] = b" " * 8
            header[148:156] = b"%06o\0 " % sum(header)
            content[start : start + BLOCK] = header
    file.write_bytes(content)
    assert rows(file) == [{"conversations": [], "png": b"a"}]


def test_truncated_tar_yields_no_partial_sample(content, tmp_path):
    (tmp_path / "a.tar").write_bytes(content[:11264])  # the sixth JSON without its image
    records = records_of(TarShard(str(tmp_path / "a.tar")), 0)
    for _ in range(5):
        assert next(records) == {"conversations": TALK, "png": b"a" * 30}
    with pytest.raises(MGMError, match="is truncated"):
        next(records)


@PACKING
@pytest.mark.parametrize("zeros", [BLOCK, 2 * BLOCK, 100 * BLOCK, 2 * BLOCK + 7])
def test_any_number_of_end_blocks(content, tmp_path, packed, zeros):
    (tmp_path / "a.tar").write_bytes(packed(content[:END] + bytes(zeros)))
    assert len(rows(tmp_path / "a.tar")) == 8


@PACKING
def test_concatenated_tars(content, tmp_path, packed):
    (tmp_path / "a.tar").write_bytes(packed(content) + packed(content))
    with pytest.raises(MGMError, match=r"has data after its end-of-archive block \(byte 16,384\)"):
        rows(tmp_path / "a.tar")


def test_damaged_header(content, tmp_path):
    damaged = content[:4096] + b"x" * BLOCK + content[4096 + BLOCK :]
    (tmp_path / "a.tar").write_bytes(damaged)
    with pytest.raises(
        MGMError, match=r"is damaged after '1\.png' \(no member header at byte 4,096\)"
    ):
        rows(tmp_path / "a.tar")


@pytest.mark.parametrize("members", [[], [("README", "of no sample")]])
def test_tar_without_samples(tmp_path, members):
    file = write_tar(tmp_path / "a.tar", members)
    for read in (rows, lambda name: main([str(name)])):
        with pytest.raises(
            MGMError, match=r"a\.tar: contains no samples; give a tar with at least one"
        ):
            read(file)


def test_empty_file(tmp_path):
    (tmp_path / "a.tar").touch()
    with pytest.raises(MGMError, match=r"a\.tar: is empty; download or copy it again$"):
        rows(tmp_path / "a.tar")


def test_remote_tar(content, tmp_path, monkeypatch):
    pytest.importorskip("aiohttp", reason="fsspec reads http with it")
    monkeypatch.setattr(module, "SHARD_RETRY_DELAY", 0.01)
    (tmp_path / "a.tar").write_bytes(content[:10240])
    (tmp_path / "b.tgz").write_bytes(gzip.compress(content))
    with server(tmp_path) as address:
        assert len(rows(f"{address}/whole.tar")) == len(rows(f"{address}/b.tgz")) == 8
        with pytest.raises(MGMError, match=r"is truncated after '4\.png'"):
            rows(f"{address}/a.tar")


def test_doctor_reads_and_copies_tars(content, tmp_path):
    for name, packed in (("a.tar", plain), ("b.tar.gz", gzip.compress), ("c.tar", lzma.compress)):
        (tmp_path / name).write_bytes(packed(content))
        assert main([str(tmp_path / name), "--fix", str(tmp_path / "fixed.tar")]) == 1
        assert rows(tmp_path / name)[3] == {"conversations": TALK, "png": b"a" * 30}


def test_text_members(tmp_path):
    talk = json.dumps({"conversations": [TALK[0] | {"value": "q"}, TALK[1]]})
    file = write_tar(tmp_path / "a.tar", [("0.json", talk), ("0.system.txt", "Be kind.")])
    assert parse_sample(rows(file)[0], "").system == "Be kind."
    members = [("0.json", json.dumps({"system": "Be rude."})), ("0.system.txt", "Be kind.")]
    (fault,) = rows(write_tar(tmp_path / "b.tar", members))
    assert "'system' differs" in str(fault)
    for name in ("0.npy", "0.depth.npz", "0.pth"):
        file = write_tar(tmp_path / "c.tar", [("0.json", talk), (name, b"array")])
        with pytest.raises(SampleError, match="is an array file"):
            parse_sample(rows(file)[0], "")


def test_arrays_beside_an_image_are_ignored(tmp_path):
    members = [("0.npy", b"array"), ("0.png", b"i"), ("0.txt", "A dog.")]
    (row,) = rows(write_tar(tmp_path / "a.tar", members))
    assert parse_sample(row, "").images == (b"i",)
