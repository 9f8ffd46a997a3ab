"""Settings of the scheduler: batch sizes, prefill policy and cache memory."""

from dataclasses import dataclass

from mgm.errors import MGMError


@dataclass(frozen=True)
class SchedulerConfig:
    """Trades latency for throughput; answers are the same with all settings.

    Attributes:
        max_num_seqs: maximum number of sequences in a decode batch.
        max_prefill_tokens: maximum tokens that one step prefills: the chunk size of long prompts,
            and the size of a batch of short ones, padding included.
        prefill_first: whether to fill the decode batch before decoding, and then to decode until
            half of it is free: more throughput, but a running sequence may wait long for its next
            token. Otherwise prefill and decode steps alternate.
        cache_completions: whether the prefix cache keeps finished sequences, for prompts that
            continue them, such as the next turn of a conversation.
        kv_cache_bytes: maximum size of the decode batch's KV cache; a single sequence may take
            more. None: a third of a GPU's memory without the weights, 4 GiB elsewhere.
        prefix_cache_bytes: maximum size of the prefix cache. None: a sixteenth of a GPU's memory
            without the weights, 512 MiB elsewhere.

    Raises:
        MGMError: a number is not positive.
    """

    max_num_seqs: int = 32
    max_prefill_tokens: int = 512
    prefill_first: bool = False
    cache_completions: bool = True
    kv_cache_bytes: int | None = None
    prefix_cache_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_prefill_tokens"):
            if getattr(self, name) < 1:
                raise MGMError(f"{name} is {getattr(self, name)}; give a number from 1")

    @classmethod
    def offline(cls, max_num_seqs: int) -> "SchedulerConfig":
        """Settings for offline batch inference, such as evaluation: throughput, not latency."""
        return cls(
            max_num_seqs, max_prefill_tokens=1024, prefill_first=True, cache_completions=False
        )
