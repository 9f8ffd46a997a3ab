"""Resumable HTTP downloads with range requests."""

import http.client
import json
import re
import shutil
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from mgm.atomic import atomic_file, write_errors
from mgm.errors import MGMError

DOWNLOAD_CHUNK = 2**20  # bytes per read
SOCKET_TIMEOUT = 30.0  # seconds without data
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")  # RFC 9110, section 14.4


@dataclass(frozen=True)
class _DownloadState:
    """State of a download, saved beside its partial file.

    Attributes:
        url: URL of the file.
        validator: strong ETag or Last-Modified of the file, for If-Range; empty: the server sent
            neither.
        length: length of the whole file in bytes; None: unknown.
    """

    url: str
    validator: str = ""
    length: int | None = None


def download_file(url: str, part: Path, verified: bool = False) -> None:
    """Download a file, or resume an interrupted download.

    Resumes only if the server confirms by ETag or date that the file has not changed. The state of
    the download is saved beside `part`, with the suffix `.json`.

    Args:
        url: URL of the file.
        part: path of the partial file.
        verified: the caller verifies a hash of the whole file, so resume without confirmation too.

    Raises:
        OSError: the network fails, or the connection broke; call again to resume.
        MGMError: the disk is too small.
    """
    state = _read_state(part, url)
    start = part.stat().st_size if part.exists() and (state.validator or verified) else 0
    if start and start == state.length:
        return
    if state.length is not None and start > state.length:
        start = 0
    try:
        _receive(url, part, start, state)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:  # 416: the partial file does not belong to this file
            raise
        _receive(url, part, 0, _DownloadState(url))


def remove_partial(part: Path) -> None:
    """Remove a partial file and its state."""
    part.unlink(missing_ok=True)
    _state_file(part).unlink(missing_ok=True)


def _receive(url: str, part: Path, start: int, state: _DownloadState) -> None:
    headers = {"Range": f"bytes={start}-"} if start else {}
    if start and state.validator:
        headers["If-Range"] = state.validator
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=SOCKET_TIMEOUT) as response:
        start, length = _position(part, response, start, state)
        validator = _validator(response)
        free = shutil.disk_usage(part.parent).free
        if length is not None and length - start > free:
            raise MGMError(
                f"{part.parent}: {url} needs {(length - start) / 2**30:.1f} GiB, and "
                f"{free / 2**30:.1f} GiB are free; free disk space and run again"
            )
        with atomic_file(_state_file(part)) as new:
            new.write_text(
                json.dumps(asdict(_DownloadState(url, validator, length))), encoding="utf-8"
            )
        with tqdm(
            total=length, initial=start, desc=url.rsplit("/", 1)[-1], unit="B", unit_scale=True
        ) as bar:
            with write_errors(part):
                file = part.open("r+b" if start else "wb")
            with file:
                file.seek(start)
                file.truncate()
                while chunk := _read(response):
                    with write_errors(part):
                        file.write(chunk)
                    bar.update(len(chunk))
    size = part.stat().st_size
    if length is not None and size != length:
        if size > length:
            remove_partial(part)
        raise OSError(f"the connection broke after {size} of {length} bytes")


def _position(
    part: Path, response: http.client.HTTPResponse, start: int, state: _DownloadState
) -> tuple[int, int | None]:
    """The offset in the file at which a response begins, and the length of the whole file.

    Raises:
        OSError: the server sends another range, or ignores If-Range and sends another version; the
            partial file is removed, to start over.
    """
    content_length = response.headers.get("Content-Length") or ""
    length = int(content_length) if content_length.isdecimal() else None
    if response.status != 206:
        return 0, length
    validator = _validator(response)
    same_kind = validator.startswith('"') == state.validator.startswith('"')
    if validator and state.validator and same_kind and validator != state.validator:
        remove_partial(part)
        raise OSError(f"the file has changed since its first {start} bytes were fetched; run again")
    match = _RANGE.fullmatch(response.headers.get("Content-Range") or "")
    end = state.length if length is None else start + length
    if match is None:
        return start, end
    total = end if match[2] == "*" else int(match[2])
    if int(match[1]) != start or (total and state.length and total != state.length):
        remove_partial(part)
        raise OSError(f"the server sends {match[0]}, requested from byte {start}")
    return start, total


def _validator(response: http.client.HTTPResponse) -> str:
    """The strong ETag of a response, else its Last-Modified; empty: neither."""
    tag = response.headers.get("ETag") or ""
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified") or ""


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(DOWNLOAD_CHUNK)
    except http.client.HTTPException as error:
        raise OSError(f"the connection broke ({type(error).__name__})") from error


def _state_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_state(part: Path, url: str) -> _DownloadState:
    try:
        state = _DownloadState(**json.loads(_state_file(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return _DownloadState(url)
    return state if state.url == url else _DownloadState(url)
