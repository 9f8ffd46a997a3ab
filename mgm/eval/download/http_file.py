"""A file of a web server, which goes on where an earlier try broke off."""

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

CHUNK = 2**20  # bytes
TIMEOUT = 30.0  # seconds without a byte
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")  # RFC 9110, section 14.4


@dataclass(frozen=True)
class _State:
    """What is known of the file that a part is of.

    Attributes:
        url: of it.
        validator: its strong ETag or date, by which a server says whether it is still the same;
            empty: the server gave none.
        length: of the whole, in bytes; None: the server did not say.
    """

    url: str
    validator: str = ""
    length: int | None = None


def fetch(url: str, part: Path, checked: bool = False) -> None:
    """Fetch a file into `part`, which may hold the beginning of it.

    The beginning counts only where the server confirms, by ETag or date, that the file is still the
    same. Beside `part` lies what is known of the file (`.json`).

    Args:
        url: of the file.
        part: where it goes.
        checked: whether a hash of the whole is compared afterwards, so that a beginning counts
            without a confirmation.

    Raises:
        OSError: the network fails, or the connection broke; call again to go on.
        MGMError: there is no room for it.
    """
    state = _read_state(part, url)
    start = part.stat().st_size if part.exists() and (state.validator or checked) else 0
    if start and start == state.length:
        return
    if state.length is not None and start > state.length:
        start = 0
    try:
        _receive(url, part, start, state)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:  # what is there is not the beginning of anything
            raise
        _receive(url, part, 0, _State(url))


def remove(part: Path) -> None:
    """Remove a part with what is known of it."""
    part.unlink(missing_ok=True)
    _state_file(part).unlink(missing_ok=True)


def _receive(url: str, part: Path, start: int, state: _State) -> None:
    headers = {"Range": f"bytes={start}-"} if start else {}
    if start and state.validator:
        headers["If-Range"] = state.validator
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        start, length = _position(part, response, start, state)
        validator = _validator(response)
        free = shutil.disk_usage(part.parent).free
        if length is not None and length - start > free:
            raise MGMError(
                f"{part.parent}: {url} needs {(length - start) / 2**30:.1f} GiB, and "
                f"{free / 2**30:.1f} GiB are free; make room and run again"
            )
        with atomic_file(_state_file(part)) as new:
            new.write_text(json.dumps(asdict(_State(url, validator, length))), encoding="utf-8")
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
            remove(part)
        raise OSError(f"the connection broke after {size} of {length} bytes")


def _position(
    part: Path, response: http.client.HTTPResponse, start: int, state: _State
) -> tuple[int, int | None]:
    """Where in the file a response begins, and the length of the whole.

    Raises:
        OSError: it is none of the file's rest, or that of another version, from a server that does
            not heed If-Range; the part is removed, to begin again.
    """
    content = response.headers.get("Content-Length") or ""
    length = int(content) if content.isdecimal() else None
    if response.status != 206:
        return 0, length
    validator = _validator(response)
    same_kind = validator.startswith('"') == state.validator.startswith('"')
    if validator and state.validator and same_kind and validator != state.validator:
        remove(part)
        raise OSError(f"the file has changed since its first {start} bytes were fetched; run again")
    found = _RANGE.fullmatch(response.headers.get("Content-Range") or "")
    ends = state.length if length is None else start + length
    if found is None:
        return start, ends
    total = ends if found[2] == "*" else int(found[2])
    if int(found[1]) != start or (total and state.length and total != state.length):
        remove(part)
        raise OSError(f"the server sends {found[0]}, not what follows byte {start}")
    return start, total


def _validator(response: http.client.HTTPResponse) -> str:
    """The strong ETag of a response, or else its date; empty: it has none."""
    tag = response.headers.get("ETag") or ""
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified") or ""


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except http.client.HTTPException as error:
        raise OSError(f"the connection broke ({type(error).__name__})") from error


def _state_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_state(part: Path, url: str) -> _State:
    try:
        state = _State(**json.loads(_state_file(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return _State(url)
    return state if state.url == url else _State(url)
