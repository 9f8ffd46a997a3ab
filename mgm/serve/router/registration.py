"""Who may register workers at a controller, and what they send to do it."""

import hmac
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Annotated

from pydantic import AfterValidator, BaseModel
from starlette.types import Scope

from mgm.errors import MGMError
from mgm.serve.http.middleware import bearer_token
from mgm.serve.http.wire import parse_worker_address
from mgm.serve.openai.errors import BadRequestError
from mgm.serve.router.worker_registry import QueueLength, WorkerStatus

# Their endpoints ask for the workers' key, not for a client's.
REGISTRATION_PATHS = ("/register_worker", "/unregister_worker", "/receive_heart_beat")
# Headers of proxies, whose own address says nothing about who sends.
PROXY_HEADERS = {b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"true-client-ip"}
PROXY_PREFIXES = (b"x-forwarded", b"cf-connecting", b"x-original-", b"x-cluster-")
# Browsers send one of these with every POST: a page from anywhere could reach this machine's ports.
BROWSER_HEADERS = {b"origin", b"sec-fetch-site"}

Address = Annotated[str, AfterValidator(parse_worker_address)]


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
    """The body of `receive_heart_beat`."""

    queue_length: QueueLength


@dataclass(frozen=True)
class RegistrationPolicy:
    """Who may register workers, send their heartbeats and unregister them.

    With a worker key: who sends it. Without: programs on this machine, whose connection came
    straight from it; or everyone, where the network is trusted.

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
            scope: of ASGI, where `client` is the address of the socket.

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
        if not self.trust_network and not (_is_local(scope) and _is_direct(scope, names)):
            text = (
                "without a --worker-key only workers on the controller's own machine are "
                "registered, and not through a proxy; start both with one, or the controller with "
                "--trust-network"
            )
            raise BadRequestError(text, status=403)


def _is_local(scope: Scope) -> bool:
    try:
        address = ip_address((scope.get("client") or ("",))[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


def _is_direct(scope: Scope, names: set[bytes]) -> bool:
    """Whether no proxy shows; of those that add no header, most speak HTTP/1.0 as nginx does."""
    marked = names & PROXY_HEADERS or any(name.startswith(PROXY_PREFIXES) for name in names)
    return not marked and scope.get("http_version") != "1.0"
