import math
import random
from itertools import product
from statistics import mean, stdev

import numpy as np
import pytest

from mgm.eval.report.statistics import (
    bounded_interval,
    clustered_error,
    jackknife,
    mean_interval,
    paired_interval,
    ratio_interval,
    sign_flip_test,
    t_quantile,
)

TRIALS = 400


def clustered_answers(draw, p, clusters, size, correlation):
    """Right or wrong, as often as `p`, alike within a cluster (beta-binomial)."""
    if correlation == 0:
        rates = np.full(clusters, p)
    elif correlation == 1:
        rates = (draw.random(clusters) < p).astype(float)
    else:
        total = 1 / correlation - 1
        rates = draw.beta(p * total, (1 - p) * total, clusters)
    values = (draw.random((clusters, size)) < rates[:, None]).astype(float).ravel()
    return values, np.repeat(np.arange(clusters), size).astype(str)


def coverage(p, clusters, size, correlation):
    draw = np.random.default_rng(7)
    held = 0
    for _ in range(TRIALS):
        found = mean_interval(*clustered_answers(draw, p, clusters, size, correlation))
        assert 0 <= found.low <= found.high <= 1
        held += found.low <= p <= found.high
    return held / TRIALS


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8, 0.97])
@pytest.mark.parametrize(
    ("clusters", "size", "correlation"),
    [(5, 1, 0), (5, 4, 0), (5, 4, 0.3), (5, 20, 1), (10, 1, 0), (10, 6, 0.5), (40, 2, 0.2),
     (200, 1, 0)],
)  # fmt: skip
def test_intervals_hold_their_level(p, clusters, size, correlation):
    assert coverage(p, clusters, size, correlation) > 0.925
