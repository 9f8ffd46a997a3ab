"""What pages, controllers and workers send one another, as published: frames, addresses, times."""

import json
import re
from ipaddress import IPv6Address
from typing import Any

from mgm.errors import MGMError

HEARTBEAT_INTERVAL = 15.0  # seconds between two heartbeats of a worker
HEARTBEAT_TIMEOUT = 30.0  # seconds without a heartbeat after which a controller removes a worker

REQUEST_FAILED, NO_WORKER, WORKER_LOST = 1, 2, 3  # error_code of a frame; 0 is none

MAX_ADDRESS = 300  # characters
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_ADDRESS = re.compile(
    rf"(https?)://(\[[0-9a-f:.]+\]|{_LABEL}(?:\.{_LABEL})*)(?::([0-9]{{1,5}}))?/?",
    re.IGNORECASE | re.ASCII,
)


def encode_frame(text: str, error_code: int = 0, **more: Any) -> bytes:
    """A chunk of a published stream: JSON and a NUL.

    Args:
        text: all there is so far, prompt and answer; or what went wrong.
        error_code: 0, or one of the above.
        **more: further fields, which old pages ignore.
    """
    content = {"text": text, "error_code": error_code} | more
    # Half a surrogate pair becomes \udXXX, which is how JSON writes it.
    return json.dumps(content, ensure_ascii=False).encode(errors="backslashreplace") + b"\0"


def parse_worker_address(address: object) -> str:
    """A worker's address in one spelling: scheme, host and port, in lower case, without a slash.

    Raises:
        MGMError: it is something else, or has more than that.
    """
    found = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if found is None or len(found[0]) > MAX_ADDRESS or not _is_host(found[2]):
        raise MGMError(f"{address!r:.100} is no address of a worker; give http://HOST:PORT")
    scheme, host, port = found[1].lower(), found[2].lower(), found[3]
    if port is None:
        return f"{scheme}://{host}"
    if not 1 <= int(port) <= 65535:
        raise MGMError(f"{address!r:.100}: port {port} does not exist; give one of 1 to 65535")
    return f"{scheme}://{host}:{int(port)}"


def _is_host(host: str) -> bool:
    if not host.startswith("["):
        return len(host) <= 253
    try:
        IPv6Address(host[1:-1])
    except ValueError:
        return False
    return True
