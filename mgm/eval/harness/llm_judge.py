"""LLM-as-a-judge: scores free-form responses, with retries and a disk cache of replies."""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mgm.errors import MGMError
from mgm.eval.harness.chat_reply import without_reasoning
from mgm.eval.harness.jsonl_store import JSONLStore, load_texts
from mgm.eval.harness.openai_client import OpenAIClient

JUDGE_TIMEOUT = 180.0  # seconds for one reply, which is short
RULES = "rules"  # the judge's name where there is no language model


class Judge:
    """The judge without a language model: benchmarks score by rules.

    Attributes:
        name: shown with every score.
    """

    name = RULES

    @property
    def is_model(self) -> bool:
        """Whether there is a language model to prompt."""
        return False

    def complete(
        self,
        prompt: str,
        temperature: float = 0.0,
        max_tokens: int = 128,
        accepts: Callable[[str], bool] | None = None,
        system: str = "",
    ) -> str:
        """Prompt the language model; returns its reply without reasoning.

        Args:
            prompt: the user message.
            temperature: sampling temperature.
            max_tokens: maximum tokens of the reply.
            accepts: whether a reply can be parsed; only such replies are cached. None: replies
                that are not empty.
            system: the system message; empty: none.

        Raises:
            EndpointUnavailableError: the endpoint is unavailable for all prompts.
            MGMError: no reply to this prompt, or there is no language model.
        """
        raise MGMError("there is no judge; give one with --judge")


@dataclass
class TokenUsage:
    """Token usage of a judge, without cached replies.

    Attributes:
        requests: sent to the server.
        prompt_tokens: prompt tokens of these requests.
        completion_tokens: completion tokens of the replies.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ModelJudge(Judge):
    """A judge model behind an OpenAI-compatible endpoint. Thread-safe.

    Replies that can be parsed are cached in a file, by request.

    Args:
        model: its name.
        url: URL of the endpoint, such as https://api.openai.com/v1.
        cache: path of the cache file.
        key: API key; None: OPENAI_API_KEY, if set.
        wait: seconds before the second attempt; doubled before each further one.
        timeout: seconds for one reply.

    Raises:
        MGMError: invalid address.
    """

    def __init__(
        self,
        model: str,
        url: str,
        cache: Path,
        key: str | None = None,
        wait: float = 1.0,
        timeout: float = JUDGE_TIMEOUT,
    ) -> None:
        self.name = model
        self.usage = TokenUsage()
        self._client = OpenAIClient(url, f"the judge {model}", key, wait, timeout)
        self._cache = JSONLStore(cache)
        self._lock = threading.Lock()
        self._replies, _ = load_texts(cache)

    @property
    def is_model(self) -> bool:
        """True: there is a language model to prompt."""
        return True

    @property
    def unavailable(self) -> str:
        """The error after which no more requests are sent; empty: the endpoint works."""
        return self._client.unavailable

    def complete(
        self,
        prompt: str,
        temperature: float = 0.0,
        max_tokens: int = 128,
        accepts: Callable[[str], bool] | None = None,
        system: str = "",
    ) -> str:
        """Prompt the judge model, with retries and the cache; see `Judge.complete`."""
        accepts = accepts or bool
        messages = [{"role": "system", "content": system}] if system else []
        body = {
            "model": self.name,
            "messages": [*messages, {"role": "user", "content": prompt}],
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        key = hashlib.blake2b(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]
        with self._lock:
            cached = self._replies.get(key)
        if cached is not None and accepts(cached):
            return cached
        completion = self._client.complete(body)
        text = without_reasoning(completion.text)
        with self._lock:
            self.usage.requests += 1
            self.usage.prompt_tokens += completion.usage.get("prompt_tokens", 0)
            self.usage.completion_tokens += completion.usage.get("completion_tokens", 0)
            if accepts(text):
                self._replies[key] = text
                self._cache.append(key, text)
        return text
