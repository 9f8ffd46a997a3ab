"""A server with the OpenAI API: retried when it is busy, asked in the fields that it accepts."""

import email.utils
import http.client
import json
import logging
import os
import random
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from mgm.errors import MGMError, one_line
from mgm.eval.harness.chat_reply import (
    FALLBACKS,
    Completion,
    parse_completion,
    unsupported_field,
    with_fields,
)

TRIES = 5
MAX_FAILED = 20  # requests in a row that are not answered, before nothing more is asked
TIMEOUT = 600.0  # seconds for one reply
BUSY = (408, 409, 425, 429)  # and all from 500: what may go better a moment later
REFUSES_ALL = (401, 402, 403, 404, 405, 501)  # statuses that every other request would get, too
UNREACHABLE = (ConnectionRefusedError, socket.gaierror, ssl.SSLError)
MAX_WAIT = 300.0  # seconds between two tries, whatever Retry-After says
MAX_BYTES = 64 * 2**20  # of a reply
CHUNK = 2**16  # bytes
REASONING_TOKENS = 8192  # for a model that thinks aloud, beside those of the reply

logger = logging.getLogger("mgm.eval")


class EndpointUnavailableError(MGMError):
    """The server answers no request at all: wrong address, key or model, or it is not there."""


class RequestRefusedError(MGMError):
    """The server refuses one request, whatever it makes of others."""


class Endpoint:
    """Chat completions of a server. Threads may share it.

    Some servers take `max_completion_tokens` instead of `max_tokens`, or no `temperature`. A field
    that a refusal calls unsupported is sent otherwise, and from then on if that succeeds.

    Args:
        url: such as https://api.openai.com/v1.
        title: what errors call it.
        key: that it asks for; None: that in OPENAI_API_KEY, if there is one.
        wait: seconds before the second try; doubled before each further one.
        timeout: seconds for one reply, from the request to its last byte.

    Raises:
        MGMError: the address is none of HTTP.
    """

    def __init__(
        self,
        url: str,
        title: str,
        key: str | None = None,
        wait: float = 1.0,
        timeout: float = TIMEOUT,
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise MGMError(
                f"{url}: is no address of a server; give one such as http://host:8000/v1"
            )
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._title, self._wait, self._timeout = title, wait, timeout
        key = key or os.environ.get("OPENAI_API_KEY")
        self._headers = {"Content-Type": "application/json"}
        self._headers |= {"Authorization": f"Bearer {key}"} if key else {}
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._fields: dict[str, str | None] = {}  # what is sent instead of unsupported fields
        self._thinks = False  # whether replies need tokens to think, too
        self._failed = 0  # requests in a row
        self._unavailable = ""  # why nothing more is asked
        self._opener = urllib.request.build_opener(_NoRedirects)

    @property
    def unavailable(self) -> str:
        """Why nothing more is asked; empty: it answers."""
        return self._unavailable

    def stop(self) -> None:
        """Try nothing again any more."""
        self._stopped.set()

    def complete(self, body: dict[str, Any]) -> Completion:
        """The server's reply to a body that has `max_tokens`.

        Where a model's thoughts took all tokens, it is asked again with `REASONING_TOKENS` more,
        and so are all later requests, as far as its context takes them.

        Raises:
            EndpointUnavailableError: it would answer no other request either.
            MGMError: it refuses this one, or does not answer it after several tries.
        """
        thinks = self._thinks  # which another thread may find out meanwhile
        completion = self._counted(body, thinks)
        if thinks or not completion.only_thought:
            return completion
        try:
            again = self._request(body, thinks=True)
        except EndpointUnavailableError:
            raise
        except MGMError:  # its context takes no more
            return completion
        self._thinks = True  # other threads do so only now, when it is known to work
        usage = {name: again.usage.get(name, 0) + n for name, n in completion.usage.items()}
        return replace(again, usage=usage)

    def _counted(self, body: dict[str, Any], thinks: bool) -> Completion:
        """The server's reply; after too many that failed in a row nothing more is asked."""
        if self._unavailable:
            raise EndpointUnavailableError(self._unavailable)
        try:
            completion = self._fitting(body, thinks)
        except EndpointUnavailableError as error:
            self._unavailable = str(error)
            raise
        except MGMError as error:
            self._failed += 1
            if self._failed >= MAX_FAILED:
                self._unavailable = f"{error}; so it went with {MAX_FAILED} requests in a row"
                raise EndpointUnavailableError(self._unavailable) from error
            raise
        self._failed = 0
        return completion

    def _fitting(self, body: dict[str, Any], thinks: bool) -> Completion:
        """The server's reply, without tokens to think where its context does not take them."""
        if thinks:
            with suppress(RequestRefusedError):
                return self._request(body, thinks=True)
        return self._request(body, thinks=False)

    def _request(self, body: dict[str, Any], thinks: bool) -> Completion:
        wait, fault, unreachable, tries = self._wait, "", False, 0
        fields = dict(self._fields)
        while tries < TRIES:
            sent = with_fields(body, fields, REASONING_TOKENS if thinks else 0)
            try:
                completion = parse_completion(self._post(sent))
                self._keep(fields)
                omitted = [name for name in body if name in fields and fields[name] is None]
                return replace(completion, omitted=tuple(omitted))
            except urllib.error.HTTPError as error:
                content = _read_error(error)
                refused = unsupported_field(content) if error.code in (400, 422) else None
                if refused is not None and refused in sent:
                    fields[refused] = FALLBACKS[refused]
                    continue  # at once, and it is not counted
                reason = one_line(content)[:200]
                self._check(error, reason)
                fault, unreachable = f"{error.code}: {reason}", False
                wait = max(wait, _retry_after(error.headers.get("Retry-After")))
            except (OSError, ValueError, TypeError, http.client.HTTPException) as error:
                cause = error.reason if isinstance(error, urllib.error.URLError) else error
                unreachable = isinstance(cause, UNREACHABLE)
                fault = one_line(cause) or type(error).__name__
                tries += isinstance(cause, TimeoutError)  # who is so slow is asked less often
            tries += 1
            if self._stopped.wait(min(wait, MAX_WAIT) * (1 + 0.2 * random.random())):
                break
            wait *= 2
        kind = EndpointUnavailableError if unreachable else MGMError
        raise kind(
            f"{self._title} does not answer after {TRIES} tries ({fault}); run again to go on "
            "where it was"
        )

    def _keep(self, fields: Mapping[str, str | None]) -> None:
        """Send fields otherwise from now on, since a request succeeded with them so."""
        with self._lock:
            new = {name: fields[name] for name in fields if name not in self._fields}
            self._fields = self._fields | new
        for name, instead in new.items():
            logger.warning(
                "%s does not support %s; %s", self._title, name,
                f"{instead} is sent instead" if instead else
                "it is left out, and the server's own default decides the answers",
            )  # fmt: skip

    def _check(self, error: urllib.error.HTTPError, reason: str) -> None:
        """Raise what no further try would change."""
        code = error.code
        if 300 <= code < 400:
            raise EndpointUnavailableError(
                f"{self._title} redirects to {error.headers.get('Location')}; give the address of "
                "the server itself"
            ) from error
        if code in BUSY or (code >= 500 and code not in REFUSES_ALL):
            return
        kind = EndpointUnavailableError if code in REFUSES_ALL else RequestRefusedError
        raise kind(f"{self._title} refuses ({code}): {reason}") from error

    def _post(self, body: dict[str, Any]) -> Any:
        until = time.monotonic() + self._timeout
        # Lone surrogates are written as escapes, which every server can read.
        request = urllib.request.Request(self._url, json.dumps(body).encode(), self._headers)
        content = bytearray()
        with self._opener.open(request, timeout=self._timeout) as response:
            while chunk := response.read1(CHUNK):
                content += chunk
                if time.monotonic() > until:
                    raise TimeoutError(f"its reply takes more than {self._timeout:g} seconds")
                if len(content) > MAX_BYTES:
                    raise ValueError(f"its reply has more than {MAX_BYTES >> 20} MiB")
            if response.length:  # http.client does not complain where `read1` is used
                raise http.client.IncompleteRead(bytes(content[:0]), response.length)
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            shown = bytes(content[:60]).decode(errors="replace")
            raise ValueError(f"its reply is no JSON: {shown!r}") from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST becomes a GET, and carries the key to another server: none is followed."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Leave the redirect to be an error."""


def _read_error(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(CHUNK).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return str(error.reason)


def _retry_after(value: str | None) -> float:
    """The seconds in a Retry-After header, which may be a date (RFC 9110, section 10.2.3)."""
    if not value:
        return 0.0
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
