"""Moderation of questions with OpenAI's moderation API."""

import os

import aiohttp

from mgm.errors import MGMError

MODERATION_TIMEOUT = 10.0  # seconds
FLAGGED = "Your question was flagged by the moderation. Please ask another one."


class Moderator:
    """Client of OpenAI or a compatible server, with the official client's environment variables."""

    def __init__(self) -> None:
        base = os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        self.url = f"{base.rstrip('/')}/moderations"
        self._headers = {"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"}

    async def check(self, text: str) -> None:
        """Raise an MGMError if the text is flagged, or the moderation does not respond."""
        timeout = aiohttp.ClientTimeout(total=MODERATION_TIMEOUT)
        try:
            async with (
                aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session,
                session.post(self.url, json={"input": text}) as response,
            ):
                response.raise_for_status()
                body = await response.json(content_type=None)
                flagged = any(bool(result["flagged"]) for result in body["results"])
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise MGMError("the moderation does not respond; retry later") from error
        if flagged:
            raise MGMError(FLAGGED)
