"""Published wire format between pages, controllers and workers: frames, addresses, heartbeats."""

import json
import re
from ipaddress import IPv6Address
from typing import Any

from mgm.errors import MGMError

HEARTBEAT_INTERVAL = 15.0  # seconds between two heartbeats of a worker
HEARTBEAT_TIMEOUT = 30.0  # seconds without a heartbeat until a controller checks the worker

REQUEST_FAILED, NO_WORKER, WORKER_LOST = 1, 2, 3  # error_code of a frame; 0: no error

MAX_ADDRESS_LENGTH = 300  # characters of a worker's address
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_ADDRESS = re.compile(
    rf"(https?)://(\[[0-9a-f:.]+\]|{_LABEL}(?:\.{_LABEL})*)(?::([0-9]{{1,5}}))?/?",
    re.IGNORECASE | re.ASCII,
)


def encode_frame(text: str, error_code: int = 0, **more: Any) -> bytes:
    """A frame of the published stream: JSON and a NUL.

    Args:
        text: prompt and answer so far, or an error message.
        error_code: 0, or one of the codes above.
        **more: additional fields, which published pages ignore.
    """
    content = {"text": text, "error_code": error_code} | more
    # A lone surrogate becomes \udXXX, its escape in JSON.
    return json.dumps(content, ensure_ascii=False).encode(errors="backslashreplace") + b"\0"


def parse_worker_address(address: object) -> str:
    """Normalise the address of a worker: scheme, host and port, in lower case.

    Raises:
        MGMError: the address is invalid, or has a path.
    """
    match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if match is None or len(match[0]) > MAX_ADDRESS_LENGTH or not _is_host(match[2]):
        raise MGMError(f"{address!r:.100} is not the address of a worker; give http://HOST:PORT")
    scheme, host, port = match[1].lower(), match[2].lower(), match[3]
    if port is None:
        return f"{scheme}://{host}"
    if not 1 <= int(port) <= 65535:
        raise MGMError(f"{address!r:.100}: invalid port {port}; give one of 1 to 65535")
    return f"{scheme}://{host}:{int(port)}"


def _is_host(host: str) -> bool:
    if not host.startswith("["):
        return len(host) <= 253
    try:
        IPv6Address(host[1:-1])
    except ValueError:
        return False
    return True
