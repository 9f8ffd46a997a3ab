"""Worker registration: request bodies, and the policy that decides who may register workers."""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel
from pydantic_core import PydanticCustomError
from starlette.types import Scope

from mgm.errors import MGMError
from mgm.serve.http.middleware import bearer_token
from mgm.serve.http.wire import parse_worker_address
from mgm.serve.openai.errors import BadRequestError
from mgm.serve.router.worker_registry import QueueLength, WorkerStatus

# Endpoints that need the worker key, not an API key.
REGISTRATION_PATHS = ("/register_worker", "/unregister_worker", "/receive_heart_beat")
# Headers of HTTP clients. Proxies add others, under many names (X-Forwarded-For, CF-Connecting-IP,
# X-Envoy-External-Address), and the address of a proxy is not that of the sender.
CLIENT_HEADERS = {
    *(b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language", b"connection"),
    *(b"authorization", b"content-type", b"content-length", b"transfer-encoding", b"expect"),
}
KEY_HINT = "start both with the same --worker-key, or the controller with --trust-network"
# Browsers send one of these with every POST: requests of web pages, which could otherwise reach
# this machine's ports, are refused.
BROWSER_HEADERS = {b"origin", b"sec-fetch-site"}


def _parse_address(address: str) -> str:
    try:
        return parse_worker_address(address)
    except MGMError as error:
        # pydantic prefixes the message of other errors with "Value error, ".
        context = {"reason": str(error)}
        raise PydanticCustomError("worker_address", "{reason}", context) from error


Address = Annotated[str, AfterValidator(_parse_address)]


class _WorkerName(BaseModel):
    """Base of the bodies: the worker's address."""

    worker_name: Address


class Registration(_WorkerName):
    """The body of `register_worker`; without a status the controller requests it."""

    check_heart_beat: bool = True
    worker_status: WorkerStatus | None = None


class Unregistration(_WorkerName):
    """The body of `unregister_worker`."""


class Heartbeat(_WorkerName):
    """The body of `receive_heart_beat`; published workers send no status."""

    queue_length: QueueLength
    worker_status: WorkerStatus | None = None


@dataclass(frozen=True)
class RegistrationPolicy:
    """Policy that decides who may register workers, send their heartbeats and unregister them.

    With a worker key: senders of that key. Without one: programs on this machine that connect
    directly, by loopback or by an address of the machine; or everyone, if the network is trusted.

    Attributes:
        worker_key: sent by workers as a bearer token.
        trust_network: whether everyone who can reach the controller may register workers.
    """

    worker_key: str | None = None
    trust_network: bool = False

    def __post_init__(self) -> None:
        if self.worker_key is not None and self.trust_network:
            raise MGMError("--trust-network lets everyone register workers; leave --worker-key out")

    def check(self, scope: Scope) -> None:
        """Check a request to one of `REGISTRATION_PATHS`.

        Args:
            scope: ASGI scope; `client` and `server` are the two addresses of the socket.

        Raises:
            BadRequestError: the sender may not register workers.
        """
        if self.worker_key is not None:
            token = bearer_token(scope["headers"])
            if token is None or not hmac.compare_digest(token, self.worker_key.encode()):
                text = "the worker key is missing or wrong; start the worker with --worker-key"
                raise BadRequestError(text, status=401, code="invalid_worker_key")
            return
        names = {name for name, _ in scope["headers"]}
        if names & BROWSER_HEADERS:
            raise BadRequestError("web pages cannot register workers", status=403)
        if self.trust_network:
            return
        if not _is_local(scope):
            raise BadRequestError(
                f"other machines cannot register workers here; {KEY_HINT}", status=403
            )
        evidence = _proxy_evidence(scope, names)
        if evidence is not None:
            text = f"{evidence} indicates a proxy, which may relay for another machine; {KEY_HINT}"
            raise BadRequestError(text, status=403)


def _is_local(scope: Scope) -> bool:
    """Whether a connection comes from this machine: by loopback, or from its own address."""
    peer, own = _address(scope.get("client")), _address(scope.get("server"))
    return peer is not None and (peer.is_loopback or peer == own)


def _address(socket_name: Sequence[Any] | None) -> IPv4Address | IPv6Address | None:
    """The IP address in ASGI's `client` or `server`; None: it has none, as a Unix socket."""
    try:
        address = ip_address((socket_name or ("",))[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _proxy_evidence(scope: Scope, names: set[bytes]) -> str | None:
    """The header or HTTP version that indicates a proxy; None: there is no such sign."""
    unknown = sorted(names - CLIENT_HEADERS)
    if unknown:
        return f"the header {unknown[0].decode('latin-1')!a:.100}"
    # Most proxies that add no header speak HTTP/1.0, as nginx does.
    return "HTTP/1.0" if scope.get("http_version") == "1.0" else None
