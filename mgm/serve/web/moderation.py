"""Questions that OpenAI's moderation objects to."""

import os

import aiohttp

from mgm.errors import MGMError

PATIENCE = 10.0  # seconds
REFUSED = "Your question was flagged by the moderation. Please ask another one."


class Moderator:
    """Asks OpenAI, or a server that speaks like it: the official client's environment variables."""

    def __init__(self) -> None:
        base = os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        self.url = f"{base.rstrip('/')}/moderations"
        self._headers = {"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"}

    async def check(self, text: str) -> None:
        """Raise an MGMError if the text is objected to, or nobody can tell."""
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        try:
            async with (
                aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session,
                session.post(self.url, json={"input": text}) as response,
            ):
                response.raise_for_status()
                found = await response.json(content_type=None)
                flagged = any(bool(one["flagged"]) for one in found["results"])
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise MGMError("the moderation does not answer; ask again later") from error
        if flagged:
            raise MGMError(REFUSED)
