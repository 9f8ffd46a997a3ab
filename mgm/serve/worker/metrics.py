"""Prometheus metrics of a worker: request counts, tokens, TTFT, latency, queue, caches.

Metrics with the same meaning as in vLLM have its names, with the prefix `mgm_`.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mgm.engine.core.request import Answer
from mgm.engine.engine import Engine
from mgm.serve.http.concurrency_limit import ConcurrencyLimiter

LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)  # seconds


class WorkerMetrics:
    """Counters, gauges and histograms of one worker.

    Args:
        engine: engine whose caches and speculative decoding are measured.
        limiter: limiter whose running and waiting requests are counted.
    """

    def __init__(self, engine: Engine, limiter: ConcurrencyLimiter) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "mgm_requests", "Finished requests by outcome", ["endpoint", "outcome"],
            registry=registry,
        )  # fmt: skip
        self.prompt_tokens = Counter(
            "mgm_prompt_tokens", "Prompt tokens, image tokens included", registry=registry
        )
        self.cached_tokens = Counter(
            "mgm_prefix_cache_hits", "Prompt tokens found in the prefix cache", registry=registry
        )
        self.generation_tokens = Counter(
            "mgm_generation_tokens", "Generated tokens", registry=registry
        )
        self.time_to_first_token = Histogram(
            "mgm_time_to_first_token_seconds",
            "Time to first token (TTFT), from the arrival of the request",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.request_latency = Histogram(
            "mgm_e2e_request_latency_seconds",
            "End-to-end request latency, time in the queue included",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        encoder_cache = engine.images.cache
        for name, text, value in (
            ("num_requests_running", "Requests that are running", lambda: limiter.running),
            ("num_requests_waiting", "Requests that are waiting", lambda: limiter.waiting),
            ("encoder_cache_hits", "Images in the encoder cache", lambda: encoder_cache.hits),
            (
                "encoder_cache_misses",
                "Images that were encoded",
                lambda: encoder_cache.misses,
            ),
            (
                "encoder_cache_bytes",
                "Size of the encoder cache",
                lambda: encoder_cache.nbytes,
            ),
            (
                "spec_decode_num_draft_tokens",
                "Draft tokens of speculative decoding",
                lambda: engine.scheduler.drafter.num_draft_tokens,
            ),
            (
                "spec_decode_num_accepted_tokens",
                "Draft tokens that were accepted",
                lambda: engine.scheduler.drafter.num_accepted_tokens,
            ),
            (
                "prefix_cache_bytes",
                "Size of the prefix cache (KV)",
                lambda: engine.scheduler.prefix_cache.nbytes,
            ),
        ):
            Gauge(f"mgm_{name}", text, registry=registry).set_function(value)

    def count_tokens(self, answer: Answer) -> None:
        """Add the prompt, cached and generated tokens of a finished sequence."""
        self.prompt_tokens.inc(answer.prompt_tokens)
        self.cached_tokens.inc(answer.cached_tokens)
        self.generation_tokens.inc(len(answer.tokens))

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
