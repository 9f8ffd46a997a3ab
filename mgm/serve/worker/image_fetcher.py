"""Images that come over the network: nothing that they name lies on this machine or near it."""

import base64
import binascii
import http.client
import ipaddress
import socket
import urllib.request
from dataclasses import replace
from typing import Any

from mgm.data.images.limits import NETWORK_LIMITS
from mgm.data.images.loading import download, image_size
from mgm.errors import MGMError

MAX_PIXELS = NETWORK_LIMITS.max_pixels  # of one image


class NetworkImages:
    """Fetches images of requests.

    Args:
        allow_private: whether URLs may lead to private, loopback and link-local addresses.
        max_pixels: of one image.
    """

    def __init__(self, allow_private: bool = False, max_pixels: int = MAX_PIXELS) -> None:
        self.max_pixels = max_pixels
        self._opener = urllib.request.OpenerDirector()
        connections = (_Connection, _SecureConnection)
        plain, secure = (
            (http.client.HTTPConnection, http.client.HTTPSConnection)
            if allow_private
            else connections
        )
        # Only these: urllib's own list also opens files, and others after a redirect.
        for handler in (
            _Handler(plain, secure),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPRedirectHandler(),
        ):
            self._opener.add_handler(handler)

    def fetch(self, source: object, label: str) -> bytes:
        """The bytes of an image file, which may be damaged.

        Args:
            source: a data URL, an http(s) URL, or the image file in base64.
            label: which image it is; errors begin with it.

        Raises:
            MGMError: it is none of these, cannot be reached, or has too many pixels.
        """
        if not isinstance(source, str) or not source:
            raise MGMError(f"{label}: is no text; give a data URL, an http(s) URL, or base64")
        scheme = source.split(":", 1)[0].lower() if ":" in source[:10] else ""
        if scheme in ("http", "https"):
            content = download(source, f"{label}: {source:.200}", self._opener.open)
        elif scheme == "data":
            content = _decode(source.partition(",")[2], label)
        elif scheme:
            raise MGMError(f"{label}: {scheme} URLs are not opened; give a data or http(s) URL")
        else:
            content = _decode(source, label)
        self._check_size(content, label)
        return content

    def _check_size(self, content: bytes, label: str) -> None:
        """Look at the header, before anything is decoded."""
        image_size(content, label, replace(NETWORK_LIMITS, max_pixels=self.max_pixels))


def _decode(text: str, label: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MGMError(
            f"{label}: is no base64; give a data URL, an http(s) URL, or base64"
        ) from error


def public_address(host: str, port: int) -> tuple[int, tuple[Any, ...]]:
    """Family and address of a host, if all that it may be reached at is public.

    Raises:
        MGMError: it is not.
        OSError: it has no address.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, place in found:
        address = ipaddress.ip_address(str(place[0]).partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        if not (mapped or address).is_global or address.is_multicast:
            raise MGMError(f"{host}: is no public address; such images are not fetched here")
    family, _, _, _, place = found[0]
    return family, place


def _connect(connection: http.client.HTTPConnection) -> socket.socket:
    """A socket to the address that was looked at: asked again, a name may mean another one."""
    family, place = public_address(connection.host, connection.port)
    found = socket.socket(family, socket.SOCK_STREAM)
    found.settimeout(connection.timeout)
    try:
        found.connect(place)
    except OSError:
        found.close()
        raise
    return found


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = _connect(self)


class _SecureConnection(http.client.HTTPSConnection, _Connection):
    """TLS over such a connection: HTTPSConnection wraps what the next class connects."""


class _Handler(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    """Opens http and https with connections of these kinds."""

    def __init__(self, plain: Any, secure: Any) -> None:
        super().__init__()
        self._plain, self._secure = plain, secure

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._plain, req)

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._secure, req)
