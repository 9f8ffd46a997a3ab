"""A server with the OpenAI API, asked again when it is busy or out of reach."""

import json
import os
import random
import threading
import urllib.error
import urllib.request
from typing import Any

from mgm.errors import MGMError, one_line

TRIES = 5
PATIENCE = 600.0  # seconds for one answer
BUSY = (408, 409, 429)  # and all from 500: what may go better a moment later


class Endpoint:
    """Chat completions of a server. Threads may share it.

    Args:
        url: such as https://api.openai.com/v1.
        title: what errors call it.
        key: that it asks for; None: that in OPENAI_API_KEY, if there is one.
        wait: seconds before the second try; doubled before each further one.
    """

    def __init__(self, url: str, title: str, key: str | None = None, wait: float = 1.0) -> None:
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._title, self._wait = title, wait
        key = key or os.environ.get("OPENAI_API_KEY")
        self._headers = {"Content-Type": "application/json"}
        self._headers |= {"Authorization": f"Bearer {key}"} if key else {}
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Try nothing again any more."""
        self._stopped.set()

    def complete(self, body: dict[str, Any]) -> tuple[str, dict[str, int]]:
        """What the server says, and the tokens that it counted.

        Raises:
            MGMError: it refuses, or does not answer after several tries.
        """
        wait, fault = self._wait, ""
        for _ in range(TRIES):
            try:
                found = self._post(body)
                text = found["choices"][0]["message"]["content"]
                if not isinstance(text, str):
                    raise MGMError(f"{self._title} refuses to answer")
                return text, found.get("usage") or {}
            except urllib.error.HTTPError as error:
                said = one_line(error.read().decode(errors="replace"))[:200]
                if error.code not in BUSY and error.code < 500:
                    raise MGMError(f"{self._title} refuses ({error.code}): {said}") from error
                fault = f"{error.code}: {said}"
                after = error.headers.get("Retry-After") or ""
                wait = max(wait, float(after) if after.isdigit() else 0)
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                if isinstance(error, MGMError):
                    raise
                fault = one_line(error) or type(error).__name__
            if self._stopped.wait(wait * (1 + 0.2 * random.random())):
                break
            wait *= 2
        raise MGMError(
            f"{self._title} does not answer after {TRIES} tries ({fault}); run again to go on "
            "where it was"
        )

    def _post(self, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(self._url, json.dumps(body).encode(), self._headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return json.loads(response.read())
