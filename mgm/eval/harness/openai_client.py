"""Client of OpenAI-compatible chat completions: retries, and fallbacks for unsupported fields."""

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
    FIELD_FALLBACKS,
    Completion,
    parse_completion,
    request_body,
    unsupported_field,
)

MAX_ATTEMPTS = 5
MAX_CONSECUTIVE_FAILURES = 20  # before the endpoint counts as unavailable
REPLY_TIMEOUT = 600.0  # seconds for one reply
RETRY_STATUSES = (408, 409, 425, 429)  # and all from 500: errors that may pass
FATAL_STATUSES = (401, 402, 403, 404, 405, 501)  # statuses that all requests would get
UNREACHABLE_ERRORS = (ConnectionRefusedError, socket.gaierror, ssl.SSLError)
MAX_RETRY_DELAY = 300.0  # seconds between two attempts, whatever Retry-After says
MAX_REPLY_BYTES = 64 * 2**20  # maximum size of a reply
REPLY_CHUNK = 2**16  # bytes per read
REASONING_TOKENS = 8192  # added to max_tokens for reasoning models

logger = logging.getLogger("mgm.eval")


class EndpointUnavailableError(MGMError):
    """The endpoint fails for all requests: wrong address, key or model, or unreachable."""


class RequestRefusedError(MGMError):
    """The server refuses one request; others may succeed."""


class OpenAIClient:
    """Client of a chat completions endpoint. Thread-safe.

    Some servers accept `max_completion_tokens` instead of `max_tokens`, or no `temperature`. A
    field that an error calls unsupported is replaced or dropped, for good once that succeeds.

    Args:
        url: such as https://api.openai.com/v1.
        title: title of the endpoint in error messages.
        key: API key; None: OPENAI_API_KEY, if set.
        wait: seconds before the second attempt; doubled before each further one.
        timeout: seconds for one reply, from the request to its last byte.

    Raises:
        MGMError: not an HTTP address.
    """

    def __init__(
        self,
        url: str,
        title: str,
        key: str | None = None,
        wait: float = 1.0,
        timeout: float = REPLY_TIMEOUT,
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise MGMError(
                f"{url}: not the address of a server; give one such as http://host:8000/v1"
            )
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._title, self._wait, self._timeout = title, wait, timeout
        key = key or os.environ.get("OPENAI_API_KEY")
        self._headers = {"Content-Type": "application/json"}
        self._headers |= {"Authorization": f"Bearer {key}"} if key else {}
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._replacements: dict[
            str, str | None
        ] = {}  # replacements of unsupported fields; see `FIELD_FALLBACKS`
        self._reasons = False  # whether the model needs `REASONING_TOKENS`
        self._failed = 0  # consecutive requests
        self._unavailable = ""  # error after which no more requests are sent
        self._opener = urllib.request.build_opener(_NoRedirects)

    @property
    def unavailable(self) -> str:
        """The error after which no more requests are sent; empty: the endpoint works."""
        return self._unavailable

    def stop(self) -> None:
        """Stop retrying failed requests."""
        self._stopped.set()

    def complete(self, body: dict[str, Any]) -> Completion:
        """Send a request; returns the completion.

        If reasoning used up all tokens, the request is repeated with `REASONING_TOKENS` more, and
        so are all later requests, unless the context is too short.

        Args:
            body: body of the request, with `max_tokens`.

        Raises:
            EndpointUnavailableError: the endpoint is unavailable for all requests.
            MGMError: the request is refused, or failed after several attempts.
        """
        reasoning = self._reasons  # once: other threads may change it
        completion = self._complete_or_give_up(body, reasoning)
        if reasoning or not completion.only_reasoning:
            return completion
        try:
            retry = self._request(body, reasoning=True)
        except EndpointUnavailableError:
            raise
        except MGMError:  # such as a context that is too short
            return completion
        self._reasons = True  # only now, since other threads read it
        usage = {name: retry.usage.get(name, 0) + n for name, n in completion.usage.items()}
        return replace(retry, usage=usage)

    def _complete_or_give_up(self, body: dict[str, Any], reasoning: bool) -> Completion:
        """Send a request; after too many consecutive failures the endpoint is unavailable."""
        if self._unavailable:
            raise EndpointUnavailableError(self._unavailable)
        try:
            completion = self._request_that_fits(body, reasoning)
        except EndpointUnavailableError as error:
            self._unavailable = str(error)
            raise
        except MGMError as error:
            self._failed += 1
            if self._failed >= MAX_CONSECUTIVE_FAILURES:
                self._unavailable = (
                    f"{error}; {MAX_CONSECUTIVE_FAILURES} consecutive requests failed"
                )
                raise EndpointUnavailableError(self._unavailable) from error
            raise
        self._failed = 0
        return completion

    def _request_that_fits(self, body: dict[str, Any], reasoning: bool) -> Completion:
        """Send a request, without tokens for reasoning if the server refuses it with them."""
        if reasoning:
            with suppress(RequestRefusedError):
                return self._request(body, reasoning=True)
        return self._request(body, reasoning=False)

    def _request(self, body: dict[str, Any], reasoning: bool) -> Completion:
        wait, last_error, unreachable, attempts = self._wait, "", False, 0
        replacements = dict(self._replacements)
        while attempts < MAX_ATTEMPTS:
            sent_body = request_body(body, replacements, REASONING_TOKENS if reasoning else 0)
            try:
                completion = parse_completion(self._post(sent_body))
                self._keep_replacements(replacements)
                omitted = [
                    name for name in body if name in replacements and replacements[name] is None
                ]
                return replace(completion, omitted=tuple(omitted))
            except urllib.error.HTTPError as error:
                content = _read_error(error)
                unsupported = unsupported_field(content) if error.code in (400, 422) else None
                if unsupported is not None and unsupported in sent_body:
                    replacements[unsupported] = FIELD_FALLBACKS[unsupported]
                    continue  # repeat at once, without counting an attempt
                reason = one_line(content)[:200]
                self._raise_if_final(error, reason)
                last_error, unreachable = f"{error.code}: {reason}", False
                wait = max(wait, _retry_after(error.headers.get("Retry-After")))
            except (OSError, ValueError, TypeError, http.client.HTTPException) as error:
                cause = error.reason if isinstance(error, urllib.error.URLError) else error
                unreachable = isinstance(cause, UNREACHABLE_ERRORS)
                last_error = one_line(cause) or type(error).__name__
                attempts += isinstance(cause, TimeoutError)  # fewer attempts for a slow server
            attempts += 1
            if self._stopped.wait(min(wait, MAX_RETRY_DELAY) * (1 + 0.2 * random.random())):
                break
            wait *= 2
        kind = EndpointUnavailableError if unreachable else MGMError
        raise kind(
            f"{self._title} does not respond after {MAX_ATTEMPTS} attempts ({last_error}); run "
            "again to resume"
        )

    def _keep_replacements(self, replacements: Mapping[str, str | None]) -> None:
        """Use replacements for all later requests, since a request succeeded with them."""
        with self._lock:
            new = {
                name: replacements[name] for name in replacements if name not in self._replacements
            }
            self._replacements = self._replacements | new
        for name, replacement in new.items():
            logger.warning(
                "%s does not support %s; %s", self._title, name,
                f"sending {replacement} instead" if replacement else
                "leaving it out, so that the server's default applies",
            )  # fmt: skip

    def _raise_if_final(self, error: urllib.error.HTTPError, reason: str) -> None:
        """Raise errors that a further attempt would not change."""
        code = error.code
        if 300 <= code < 400:
            raise EndpointUnavailableError(
                f"{self._title} redirects to {error.headers.get('Location')}; give the address of "
                "the server itself"
            ) from error
        if code in RETRY_STATUSES or (code >= 500 and code not in FATAL_STATUSES):
            return
        kind = EndpointUnavailableError if code in FATAL_STATUSES else RequestRefusedError
        raise kind(f"{self._title} refuses ({code}): {reason}") from error

    def _post(self, body: dict[str, Any]) -> Any:
        deadline = time.monotonic() + self._timeout
        # ASCII JSON: lone surrogates become escapes.
        request = urllib.request.Request(self._url, json.dumps(body).encode(), self._headers)
        content = bytearray()
        with self._opener.open(request, timeout=self._timeout) as response:
            while chunk := response.read1(REPLY_CHUNK):
                content += chunk
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no complete reply within {self._timeout:g} seconds")
                if len(content) > MAX_REPLY_BYTES:
                    raise ValueError(f"reply larger than {MAX_REPLY_BYTES >> 20} MiB")
            if response.length:  # `read1` does not raise on a short reply
                raise http.client.IncompleteRead(bytes(content[:0]), response.length)
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            excerpt = bytes(content[:60]).decode(errors="replace")
            raise ValueError(f"reply is not JSON: {excerpt!r}") from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirects: they would turn POST into GET, and send the key to another server."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Return nothing, so that urllib raises an HTTPError."""


def _read_error(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(REPLY_CHUNK).decode(errors="replace")
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
