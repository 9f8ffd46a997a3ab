"""Who may register workers at a controller, and what they send to do it."""

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

# Their endpoints ask for the workers' key, not for a client's.
REGISTRATION_PATHS = ("/register_worker", "/unregister_worker", "/receive_heart_beat")
# Headers that programs send of themselves. Proxies add others, under many names (X-Forwarded-For,
# CF-Connecting-IP, X-Envoy-External-Address), and their own address says nothing about who sends.
PROGRAM_HEADERS = {
    *(b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language", b"connection"),
    *(b"authorization", b"content-type", b"content-length", b"transfer-encoding", b"expect"),
}
ADVICE = "start both with the same --worker-key, or the controller with --trust-network"
# Browsers send one of these with every POST: a page from anywhere could reach this machine's ports.
BROWSER_HEADERS = {b"origin", b"sec-fetch-site"}


def _parse_address(address: str) -> str:
    try:
        return parse_worker_address(address)
    except MGMError as error:
        # pydantic writes "Value error, " before the text of others.
        context = {"reason": str(error)}
        raise PydanticCustomError("worker_address", "{reason}", context) from error


Address = Annotated[str, AfterValidator(_parse_address)]


class _WorkerName(BaseModel):
    """The body of `unregister_worker`, and what the others begin with."""

    worker_name: Address


class Registration(_WorkerName):
    """The body of `register_worker`; a worker without a status is asked for it."""

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
    """Who may register workers, send their heartbeats and unregister them.

    With a worker key: who sends it. Without: programs on this machine, whose connection comes
    straight from it, by loopback or by an address of the machine; or everyone, where the network is
    trusted.

    Attributes:
        worker_key: that workers send as a bearer token.
        trust_network: whether everyone who reaches the controller may.
    """

    worker_key: str | None = None
    trust_network: bool = False

    def __post_init__(self) -> None:
        if self.worker_key is not None and self.trust_network:
            raise MGMError("--trust-network lets everyone register workers; leave --worker-key out")

    def check(self, scope: Scope) -> None:
        """Let a request to one of `REGISTRATION_PATHS` pass.

        Args:
            scope: of ASGI, where `client` and `server` are the socket's two addresses.

        Raises:
            BadRequestError: it may not.
        """
        if self.worker_key is not None:
            token = bearer_token(scope["headers"])
            if token is None or not hmac.compare_digest(token, self.worker_key.encode()):
                text = "the worker key is missing or wrong; start the worker with --worker-key"
                raise BadRequestError(text, status=401, code="invalid_worker_key")
            return
        names = {name for name, _ in scope["headers"]}
        if names & BROWSER_HEADERS:
            raise BadRequestError("workers are not registered by web pages", status=403)
        if self.trust_network:
            return
        if not _is_local(scope):
            raise BadRequestError(f"other machines register no workers here; {ADVICE}", status=403)
        sign = _sign_of_proxy(scope, names)
        if sign is not None:
            text = f"{sign} shows a proxy, which may speak for another machine; {ADVICE}"
            raise BadRequestError(text, status=403)


def _is_local(scope: Scope) -> bool:
    """Whether a connection comes from this machine: by loopback, or from the address it goes to."""
    peer, own = _address(scope.get("client")), _address(scope.get("server"))
    return peer is not None and (peer.is_loopback or peer == own)


def _address(socket_name: Sequence[Any] | None) -> IPv4Address | IPv6Address | None:
    """The address of a socket, as ASGI has it; None: it has none, as those in files."""
    try:
        address = ip_address((socket_name or ("",))[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _sign_of_proxy(scope: Scope, names: set[bytes]) -> str | None:
    """What in a request shows that a proxy sent it on."""
    unknown = sorted(names - PROGRAM_HEADERS)
    if unknown:
        return f"the header {unknown[0].decode('latin-1')!a:.100}"
    # Of proxies that add no header, most speak HTTP/1.0 as nginx does.
    return "HTTP/1.0" if scope.get("http_version") == "1.0" else None
