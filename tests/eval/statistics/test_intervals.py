import math
import random
from statistics import mean, stdev

import numpy as np
import pytest

from mgm.eval.statistics.intervals import (
    bounded_interval,
    clustered_error,
    effective_sample,
    intra_cluster_correlation,
    jackknife,
    mean_interval,
    ratio_interval,
    t_quantile,
)

TRIALS = 400


def clustered_answers(draw, p, sizes, correlation):
    """Credits 0 or 1 with mean `p`, correlated within clusters (beta-binomial)."""
    clusters = len(sizes)
    if correlation == 0:
        rates = np.full(clusters, p)
    elif correlation == 1:
        rates = (draw.random(clusters) < p).astype(float)
    else:
        total = 1 / correlation - 1
        rates = draw.beta(p * total, (1 - p) * total, clusters)
    cluster = np.repeat(np.arange(clusters), sizes)
    return (draw.random(len(cluster)) < rates[cluster]).astype(float), cluster


def coverage(p, sizes, correlation, trials=TRIALS):
    draw = np.random.default_rng(7)
    held = 0
    for _ in range(trials):
        interval = mean_interval(*clustered_answers(draw, p, sizes, correlation))
        assert 0 <= interval.low <= interval.high <= 1
        held += interval.low <= p <= interval.high
    return held / trials


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8, 0.97, 0.99])
@pytest.mark.parametrize(
    ("clusters", "size", "correlation"),
    [(5, 1, 0), (5, 4, 0), (5, 4, 0.3), (5, 20, 1), (10, 1, 0), (10, 6, 0.5), (40, 2, 0.2),
     (200, 1, 0)],
)  # fmt: skip
def test_coverage(p, clusters, size, correlation):
    assert coverage(p, [size] * clusters, correlation) > 0.93


UNEQUAL = {
    "ninety of 1, ten of 30": [1] * 90 + [30] * 10,
    "1 to 30": list(range(1, 31)),
    "1 to 10": list(range(1, 11)),
    "six of 10, four of 1": [10] * 6 + [1] * 4,
    "a hundred of 1, one of 10": [1] * 100 + [10],
    "halves": [1] * 60 + [2] * 30 + [4] * 15 + [8] * 8 + [16] * 4 + [32] * 2 + [64],
    "one by one fewer": [max(1, round(60 / n)) for n in range(1, 61)],
}


@pytest.mark.parametrize("p", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("correlation", [0, 0.2, 0.6, 1])
@pytest.mark.parametrize("sizes", UNEQUAL.values(), ids=UNEQUAL)
def test_coverage_with_unequal_clusters(p, sizes, correlation):
    assert coverage(p, sizes, correlation, trials=200) > 0.925


@pytest.mark.parametrize(
    "sizes", [[1, 1, 1, 1, 46], [1] * 9 + [41], [1] * 18 + [40] * 2, [2**n for n in range(10)]]
)
def test_few_large_clusters_have_no_interval(sizes):
    """Regardless of the number of small ones."""
    draw = np.random.default_rng(2)
    for correlation in (0, 0.6, 1):
        assert mean_interval(*clustered_answers(draw, 0.5, sizes, correlation)) is None


def test_effective_sample_size():
    """Equal clusters count fully; perfectly correlated questions count once per cluster."""
    alike = effective_sample(np.full(20, 5), 1)
    assert (alike.clusters, alike.freedom, alike.questions) == pytest.approx((20, 19, 20))
    apart = effective_sample(np.full(20, 5), 0)
    assert (apart.clusters, apart.freedom, apart.questions) == pytest.approx((20, 19, 99))
    skewed = effective_sample(np.array([1] * 90 + [30] * 10), 1)
    assert skewed.clusters == skewed.questions == pytest.approx(390**2 / 9090)
    assert skewed.freedom == pytest.approx(9090**2 / (90 + 10 * 30**4) - 1)


def test_intra_cluster_correlation():
    draw = np.random.default_rng(3)
    for correlation in (0, 0.3, 0.7, 1):
        estimate = intra_cluster_correlation(
            *clustered_answers(draw, 0.4, [1, 2, 3] * 2000, correlation)
        )
        assert estimate == pytest.approx(correlation, abs=0.04)
    assert intra_cluster_correlation([1.0, 0.0, 1.0], ["a", "b", "c"]) == 0
    assert intra_cluster_correlation([1.0, 1.0, 1.0], ["a", "a", "c"]) == 1


def test_width_for_large_samples():
    assert 0.94 < coverage(0.5, [2] * 400, 0.3) < 0.98
    values, groups = clustered_answers(np.random.default_rng(0), 0.7, [1] * 4000, 0)
    interval = mean_interval(values, groups)
    assert interval.high - interval.low == pytest.approx(
        2 * 1.96 * math.sqrt(0.21 / 4000), rel=0.05
    )


def test_coverage_with_partial_credits():
    """Credits of 0, 0.3, 0.6 or 1, as in VQA, from ten images on."""
    draw, worth, held = np.random.default_rng(3), np.array([0, 0.3, 0.6, 1.0]), 0
    chances = np.array([0.2, 0.1, 0.2, 0.5])
    for _ in range(TRIALS):
        values = draw.choice(worth, 10, p=chances)
        interval = mean_interval(values, list(map(str, range(10))))
        held += interval.low <= worth @ chances <= interval.high
    assert held / TRIALS > 0.925


@pytest.mark.parametrize("credit", [0.1, 0.3, 1 / 3, 0.6, 0.9])
@pytest.mark.parametrize("size", [1, 3])
def test_interval_of_equal_partial_credits(credit, size):
    """With zero variance: as for as many right or wrong questions."""
    for count in (5, 7, 10, 30, 100):
        interval = mean_interval([credit] * (count * size), np.repeat(np.arange(count), size))
        assert interval.low < credit < interval.high
        assert interval.high - interval.low > (credit * (1 - credit) / count) ** 0.5


@pytest.mark.parametrize("count", [5, 10, 100])
def test_clopper_pearson_for_all_right_or_wrong(count):
    """The rate at which that many right in a row have a probability of 2.5 %."""
    names = list(map(str, range(count)))
    right, wrong = mean_interval([1.0] * count, names), mean_interval([0.0] * count, names)
    assert right.low**count == pytest.approx(0.025)
    assert right.high == 1
    assert (wrong.low, wrong.high) == (0, pytest.approx(1 - right.low))
    # Questions about one image may be fully correlated: they count as one.
    shared = mean_interval([1.0] * 4 * count, names * 4)
    assert shared.low == right.low


def test_small_samples_have_no_interval():
    assert mean_interval([1.0, 0.0, 1.0, 1.0], list("abcd")) is None
    assert mean_interval([1.0] * 50, ["one image"] * 50) is None
    assert mean_interval([1.0, 0.0, 1.0, 1.0, 0.0], list("abcde")) is not None


def test_intervals_stay_within_the_range():
    interval = bounded_interval(0.95, 0.1, effective_sample(np.full(5, 4), 0.0))
    assert 0 < interval.low < 0.95 < interval.high <= 1
    singles = effective_sample(np.ones(60), 0.0)
    ratio = ratio_interval(116.7, 40.0, singles)
    assert 0 < ratio.low < 116.7 < ratio.high
    assert ratio_interval(0.0, 1.0, singles) is None
    equal = bounded_interval(
        0.5, 0.0, effective_sample(np.full(20, 2), 0.0)
    )  # one of two right for each image
    assert equal.low < 0.45
    assert equal.high > 0.55


def test_standard_error_without_clusters():
    draw = random.Random(0)
    values = [float(draw.random() < 0.3) for _ in range(500)]
    alone = clustered_error(values, [str(n) for n in range(500)])
    assert alone == pytest.approx(stdev(values) / math.sqrt(500), rel=1e-9)


def test_clusters_widen_the_interval():
    draw = random.Random(1)
    right = [float(draw.random() < 0.5) for _ in range(100)]
    names = list(map(str, range(100)))
    shared = clustered_error(right * 4, names * 4)  # four equal responses
    assert shared == pytest.approx(clustered_error(right, names))


def test_quantiles_of_students_t():
    for freedom, value in ((4, 2.776), (9, 2.262), (29, 2.045), (1000, 1.962)):
        assert t_quantile(0.975, freedom) == pytest.approx(value, abs=2e-3)
    assert t_quantile(0.95, 4) == pytest.approx(2.132, abs=2e-3)


def f1_of(labels, credits):
    hits = np.sum((labels == 1) & (credits == 1))
    return 2 * hits / (2 * hits + np.sum(credits == 0)) if hits else 0.0


@pytest.mark.parametrize(("clusters", "size"), [(10, 6), (40, 4)])
def test_jackknife_coverage_for_f1(clusters, size):
    """With true and false positive rates that differ between images."""
    draw, held = np.random.default_rng(5), 0
    groups = np.repeat(np.arange(clusters), size).astype(str)
    labels = np.tile([1, 0], clusters * size // 2)
    truth = f1_of(np.tile([1, 0], 10**6), (draw.random(2 * 10**6) < 0.8).astype(int))
    for _ in range(150):
        rates = draw.beta(8, 2, clusters)
        credits = (draw.random((clusters, size)) < rates[:, None]).astype(int).ravel()

        def scores(indexes, credits=credits):
            return {"f1": (f1_of(labels[indexes], credits[indexes]), len(indexes))}

        jackknifed = jackknife(lambda indexes: scores(np.asarray(indexes)), groups)["f1"]
        interval = bounded_interval(
            jackknifed.value,
            jackknifed.error,
            jackknifed.sample(intra_cluster_correlation(credits, groups)),
        )
        held += interval.low <= truth <= interval.high
    assert held / 150 > 0.9


def test_jackknife_of_a_mean_equals_the_clustered_error():
    values, groups = clustered_answers(np.random.default_rng(1), 0.6, [3] * 50, 0.4)
    jackknifed = jackknife(lambda own: {"": (mean(values[n] for n in own), len(own))}, groups)[""]
    assert jackknifed.error == pytest.approx(clustered_error(values, groups), rel=0.02)


def test_jackknife_of_many_clusters_uses_random_groups():
    values, groups = clustered_answers(np.random.default_rng(1), 0.6, [1] * 2000, 0)

    def scores(own):
        some = values[np.asarray(own)]
        return {"": (some.mean(), len(own)), "first": (some[0], 1)}

    jackknifed = jackknife(scores, groups)
    assert len(jackknifed[""].fold_sizes) == 200
    assert jackknifed[""].error == pytest.approx(clustered_error(values, groups), rel=0.15)
    assert math.isnan(jackknifed["first"].error)  # this one is never left out
