"""What a worker tells Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mgm.engine.core.request import Answer
from mgm.engine.engine import Engine
from mgm.serve.http.concurrency_limit import ConcurrencyLimiter

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class WorkerMetrics:
    """Counts and times of one worker.

    Args:
        engine: that answers.
        admission: of its requests.
    """

    def __init__(self, engine: Engine, admission: ConcurrencyLimiter) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "mgm_requests", "Requests by how they ended", ["endpoint", "outcome"], registry=registry
        )
        self.prompt_tokens = Counter("mgm_prompt_tokens", "Positions of prompts", registry=registry)
        self.cached_tokens = Counter(
            "mgm_cached_prompt_tokens", "Positions of prompts that were known", registry=registry
        )
        self.answer_tokens = Counter(
            "mgm_answer_tokens", "Tokens that were written", registry=registry
        )
        self.first_token = Histogram(
            "mgm_time_to_first_token_seconds",
            "From the request to its first text",
            buckets=SECONDS,
            registry=registry,
        )
        self.duration = Histogram(
            "mgm_request_seconds", "From the request to its end", buckets=SECONDS, registry=registry
        )
        for name, text, value in (
            ("mgm_running", "Answers that are written", lambda: admission.running),
            ("mgm_waiting", "Requests that wait", lambda: admission.waiting),
            ("mgm_image_cache_hits", "Images that were known", lambda: engine.features.hits),
            ("mgm_image_cache_misses", "Images that were not", lambda: engine.features.misses),
            ("mgm_image_cache_bytes", "Memory of known images", lambda: engine.features.size),
            (
                "mgm_draft_tokens",
                "Tokens that were guessed",
                lambda: engine.scheduler.drafts.guessed,
            ),
            (
                "mgm_accepted_draft_tokens",
                "Guesses that were right",
                lambda: engine.scheduler.drafts.right,
            ),
            (
                "mgm_prefix_cache_bytes",
                "Memory of known beginnings of prompts",
                lambda: engine.scheduler.prefixes.size,
            ),
        ):
            Gauge(name, text, registry=registry).set_function(value)

    def count(self, answer: Answer) -> None:
        """Add the tokens of an answer."""
        self.prompt_tokens.inc(answer.prompt_tokens)
        self.cached_tokens.inc(answer.cached_tokens)
        self.answer_tokens.inc(len(answer.tokens))

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
