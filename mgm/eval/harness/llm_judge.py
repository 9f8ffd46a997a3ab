"""Who says whether a free answer is right: a language model, or rules."""

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
RULES = "rules"  # the name of no language model at all


class Judge:
    """Rules alone; a language model is one that answers.

    Attributes:
        name: printed with every score that it made.
    """

    name = RULES

    @property
    def is_model(self) -> bool:
        """Whether there is a language model to ask."""
        return False

    def complete(
        self,
        prompt: str,
        temperature: float = 0.0,
        max_tokens: int = 128,
        accepts: Callable[[str], bool] | None = None,
        system: str = "",
    ) -> str:
        """What the language model replies, without what it thought aloud before.

        Args:
            prompt: the whole message.
            temperature: of the sampling.
            max_tokens: of the reply.
            accepts: whether a reply can be parsed; only such a reply is kept for later runs.
                None: every reply that is not empty is.
            system: message that goes before it; empty: none.

        Raises:
            EndpointUnavailableError: it would answer no other prompt either.
            MGMError: it does not reply to this one, or there is no language model.
        """
        raise MGMError("there is no judge; name one with --judge")


@dataclass
class TokenUsage:
    """What a judge was asked, to know what it costs.

    Attributes:
        requests: that were answered by the server; the others were known.
        prompt_tokens: of them.
        completion_tokens: of their answers.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ModelJudge(Judge):
    """A model behind an OpenAI-compatible endpoint. Threads may share it.

    Replies that could be parsed are kept in a file, and not asked for again.

    Args:
        model: its name.
        url: of the endpoint, such as https://api.openai.com/v1.
        cache: the file.
        key: of the endpoint; None: that in OPENAI_API_KEY, if there is one.
        wait: seconds before the second try; doubled before each further one.
        timeout: seconds for one reply.

    Raises:
        MGMError: the address is none.
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
        self._endpoint = OpenAIClient(url, f"the judge {model}", key, wait, timeout)
        self._cache = JSONLStore(cache)
        self._lock = threading.Lock()
        self._known, _ = load_texts(cache)

    @property
    def is_model(self) -> bool:
        """It is."""
        return True

    @property
    def unavailable(self) -> str:
        """Why it is not asked any more; empty: it replies."""
        return self._endpoint.unavailable

    def complete(
        self,
        prompt: str,
        temperature: float = 0.0,
        max_tokens: int = 128,
        accepts: Callable[[str], bool] | None = None,
        system: str = "",
    ) -> str:
        """See `Judge`; after errors and when told to wait it is asked again."""
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
            known = self._known.get(key)
        if known is not None and accepts(known):
            return known
        completion = self._endpoint.complete(body)
        text = without_reasoning(completion.text)
        with self._lock:
            self.usage.requests += 1
            self.usage.prompt_tokens += completion.usage.get("prompt_tokens", 0)
            self.usage.completion_tokens += completion.usage.get("completion_tokens", 0)
            if accepts(text):
                self._known[key] = text
                self._cache.add(key, text)
        return text
