"""Interrupted downloads resume if the file is the same, else they start over."""

import json
import urllib.error

import pytest

from mgm.errors import MGMError
from mgm.eval.download import http_file
from mgm.eval.download.http_file import download_file
from tests.eval.download.file_server import File, serving
from tests.eval.full_disk import full_after

CONTENT = bytes(range(256)) * 300


def broken(part, url: str) -> None:
    with pytest.raises(OSError, match=r"the connection broke after \d+ of \d+ bytes"):
        download_file(url, part)


def test_interrupted_download_resumes(tmp_path):
    file, part = File(CONTENT, breaks=[20_000, 50_000]), tmp_path / ".a.part"
    with serving(file) as address:
        for _ in range(2):
            broken(part, f"{address}/a")
        download_file(f"{address}/a", part)
        assert part.read_bytes() == CONTENT
        requests = [(None, None), ("bytes=20000-", '"one"'), ("bytes=50000-", '"one"')]
        assert file.requests == requests
        download_file(f"{address}/a", part)  # complete
        assert file.requests == requests


def test_changed_file_starts_over(tmp_path):
    """With another ETag, or another URL."""
    file, part = File(CONTENT, breaks=[20_000]), tmp_path / ".a.part"
    with serving(file) as address:
        broken(part, f"{address}/a")
        file.content, file.tag = CONTENT[::-1], '"two"'
        download_file(f"{address}/a", part)
        assert part.read_bytes() == CONTENT[::-1]
        part.write_bytes(b"x" * 100)
        download_file(f"{address}/b", part)
        assert part.read_bytes() == CONTENT[::-1]
        assert file.requests[-1] == (None, None)


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_server_without_an_etag(tmp_path, tag):
    """Starts over, unless a digest is checked afterwards."""
    file, part = File(CONTENT, tag=tag, breaks=[20_000]), tmp_path / ".a.part"
    with serving(file) as address:
        broken(part, f"{address}/a")
        file.content = CONTENT[::-1]
        download_file(f"{address}/a", part)
        assert part.read_bytes() == CONTENT[::-1]
        part.unlink()
        file.content, file.breaks = CONTENT, [20_000]
        broken(part, f"{address}/a")
        download_file(f"{address}/a", part, verified=True)
        assert part.read_bytes() == CONTENT
        assert file.requests[-1] == ("bytes=20000-", None)


def test_server_without_ranges(tmp_path):
    file, part = File(CONTENT, ranges=False, breaks=[20_000]), tmp_path / ".a.part"
    with serving(file) as address:
        broken(part, f"{address}/a")
        download_file(f"{address}/a", part)
        assert part.read_bytes() == CONTENT


@pytest.mark.parametrize("state", ["", "no JSON", "[1]", '{"url": 1}', '{"more": 1}', None])
def test_partial_file_without_its_record(tmp_path, state):
    """Such as one of another version, or with a truncated record."""
    file, part = File(CONTENT), tmp_path / ".a.part"
    with serving(file) as address:
        part.write_bytes(b"x" * 1000)
        if state is not None:
            part.with_name(".a.part.json").write_text(state)
        download_file(f"{address}/a", part)
        assert part.read_bytes() == CONTENT


def test_partial_file_longer_than_the_file(tmp_path):
    file, part = File(CONTENT), tmp_path / ".a.part"
    with serving(file) as address:
        url = f"{address}/a"
        part.write_bytes(CONTENT + b"more")
        record = {"url": url, "validator": '"one"', "length": len(CONTENT)}
        for length in (len(CONTENT), None):  # the server reports no remaining bytes
            part.with_name(".a.part.json").write_text(json.dumps(record | {"length": length}))
            download_file(url, part)
            assert part.read_bytes() == CONTENT


def test_range_at_another_offset(tmp_path):
    file, part = File(CONTENT, breaks=[20_000]), tmp_path / ".a.part"
    with serving(file) as address:
        broken(part, f"{address}/a")
        file.content = CONTENT + b"more"  # with the same ETag
        with pytest.raises(OSError, match="requested from byte 20000"):
            download_file(f"{address}/a", part)
        download_file(f"{address}/a", part)  # it starts over
        assert part.read_bytes() == file.content
        part.unlink()
    with pytest.raises(urllib.error.URLError):
        download_file(f"{address}/a", part)


def test_server_that_ignores_if_range(tmp_path):
    """It sends the rest of another version of equal length."""
    file, part = File(CONTENT, breaks=[20_000], heeds=False), tmp_path / ".a.part"
    with serving(file) as address:
        broken(part, f"{address}/a")
        file.content, file.tag = CONTENT[::-1], '"two"'
        with pytest.raises(OSError, match="the file has changed since its first 20000 bytes"):
            download_file(f"{address}/a", part)
        download_file(f"{address}/a", part)  # it starts over
        assert part.read_bytes() == CONTENT[::-1]


def test_rest_of_a_file_of_unknown_length(tmp_path):
    """The length of the rest is known, so that a broken connection is detected."""
    file, part = File(CONTENT, breaks=[20_000, 50_000], total="*"), tmp_path / ".a.part"
    with serving(file) as address:
        for _ in range(2):
            broken(part, f"{address}/a")
        download_file(f"{address}/a", part)
        assert part.read_bytes() == CONTENT


def test_no_disk_space(tmp_path, monkeypatch):
    file, part = File(CONTENT), tmp_path / ".a.part"
    with serving(file) as address:
        with full_after(30_000), pytest.raises(MGMError, match=r"\.a\.part: could not be written"):
            download_file(f"{address}/a", part)
        download_file(f"{address}/a", part)
        assert part.read_bytes() == CONTENT
        usage = http_file.shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(http_file.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(MGMError, match=r"needs 0\.0 GiB, and 0\.0 GiB are free"):
            download_file(f"{address}/b", tmp_path / ".b.part")
