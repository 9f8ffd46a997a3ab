"""Digests of files: every byte, or sampled blocks of large files."""

import os

import pytest

from mgm import file_digest
from mgm.data.sources import digest
from mgm.data.sources.digest import digest_of
from mgm.errors import MGMError


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "data.json"
    path.write_bytes(bytes(range(250)) * 4)
    return path


def test_digest_depends_on_content_only(file, tmp_path):
    other = tmp_path / "elsewhere.json"
    other.write_bytes(file.read_bytes())
    assert digest_of([file]) == digest_of([other])
    other.write_bytes(file.read_bytes()[:-1] + b"?")
    assert digest_of([file]) != digest_of([other])
    assert digest_of([file, other]) != digest_of([other, file])


def test_sampled_blocks_of_large_files(file, monkeypatch):
    monkeypatch.setattr(file_digest, "NUM_BLOCKS", 3)
    monkeypatch.setattr(file_digest, "BLOCK_SIZE", 10)
    content = file.read_bytes()
    before = digest_of([file], read_whole=10)
    for changed in (0, 500, 999):  # first, middle, last
        bit = bytes([content[changed] ^ 1])
        file.write_bytes(content[:changed] + bit + content[changed + 1 :])
        assert digest_of([file], read_whole=10) != before
    file.write_bytes(content)
    assert digest_of([file], read_whole=10) == before


def test_digest_is_cached_until_the_file_changes(file, tmp_path, monkeypatch):
    monkeypatch.setattr(digest, "CACHED_FROM", 10)
    computed = []
    kept = digest.file_digest
    monkeypatch.setattr(digest, "file_digest", lambda *given: computed.append(1) or kept(*given))
    before = digest_of([file])
    assert digest_of([file]) == before
    assert len(computed) == 1
    stamp = file.stat().st_mtime_ns
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    os.utime(file, ns=(stamp + 1, stamp + 1))
    assert digest_of([file]) != before
    for cached in (tmp_path / "cache" / "mgm").iterdir():
        cached.write_text("[]")  # not ours
    digest_of([file])
    assert len(computed) == 3


def test_missing_file(tmp_path):
    with pytest.raises(MGMError, match=r"gone\.json: cannot be read"):
        digest_of([tmp_path / "gone.json"])
