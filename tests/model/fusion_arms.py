"""Settings of fusion that are trained and compared; a new mode is one more row."""

from typing import Any

ARMS: dict[str, dict[str, Any]] = {
    "mining": {},
    "one query": {"mode": "one_query"},
    "mean of the window": {"mode": "pool"},
    "concatenation": {"mode": "concat"},
    "gate": {"mode": "gate"},
    "low resolution alone": {"mode": "none"},
    "mined features alone": {"high_resolution_only": True},
    "high resolution alone": {"mode": "pool", "high_resolution_only": True},
    "blurred": {"blur_high_resolution": 28},
    "shifted": {"window_shift": 1},
    "coarsest stage": {"stages": (4,)},
    "two stages, gate": {"mode": "gate", "stages": (3, 4)},
    "pooled tokens": {"token_pooling": 2},
    "pooled tokens, one query": {"mode": "one_query", "token_pooling": 2},
    "pooled tokens, concatenation": {"mode": "concat", "token_pooling": 2},
    "pooled tokens, low resolution alone": {"mode": "none", "token_pooling": 2},
}
