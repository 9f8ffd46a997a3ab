import math
import random
from itertools import product
from statistics import NormalDist, mean, stdev

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


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8, 0.97, 0.99])
@pytest.mark.parametrize(
    ("clusters", "size", "correlation"),
    [(5, 1, 0), (5, 4, 0), (5, 4, 0.3), (5, 20, 1), (10, 1, 0), (10, 6, 0.5), (40, 2, 0.2),
     (200, 1, 0)],
)  # fmt: skip
def test_intervals_hold_their_level(p, clusters, size, correlation):
    assert coverage(p, clusters, size, correlation) > 0.93


def test_large_samples_have_no_wider_intervals_than_they_need():
    assert 0.94 < coverage(0.5, 400, 2, 0.3) < 0.98
    values, groups = clustered_answers(np.random.default_rng(0), 0.7, 4000, 1, 0)
    found = mean_interval(values, groups)
    assert found.high - found.low == pytest.approx(2 * 1.96 * math.sqrt(0.21 / 4000), rel=0.05)


def test_partial_credits_hold_their_level():
    """Answers worth 0, 0.3, 0.6 or 1, as in VQA, from ten images on."""
    draw, worth, held = np.random.default_rng(3), np.array([0, 0.3, 0.6, 1.0]), 0
    chances = np.array([0.2, 0.1, 0.2, 0.5])
    for _ in range(TRIALS):
        values = draw.choice(worth, 10, p=chances)
        found = mean_interval(values, list(map(str, range(10))))
        held += found.low <= worth @ chances <= found.high
    assert held / TRIALS > 0.925


@pytest.mark.parametrize("count", [5, 10, 100])
def test_all_right_and_all_wrong_are_exact(count):
    """Clopper and Pearson: the rate at which so many right in a row are as rare as 2.5 %."""
    names = list(map(str, range(count)))
    right, wrong = mean_interval([1.0] * count, names), mean_interval([0.0] * count, names)
    assert right.low**count == pytest.approx(0.025)
    assert right.high == 1
    assert (wrong.low, wrong.high) == (0, pytest.approx(1 - right.low))
    # Questions about one image may all hang together: they count as one.
    shared = mean_interval([1.0] * 4 * count, names * 4)
    assert shared.low == right.low


def test_small_samples_have_no_interval():
    assert mean_interval([1.0, 0.0, 1.0, 1.0], list("abcd")) is None
    assert mean_interval([1.0] * 50, ["one image"] * 50) is None
    assert mean_interval([1.0, 0.0, 1.0, 1.0, 0.0], list("abcde")) is not None


def test_intervals_keep_to_what_a_score_can_be():
    found = bounded_interval(0.95, 0.1, 5, 20)
    assert 0 < found.low < 0.95 < found.high <= 1
    ratio = ratio_interval(116.7, 40.0, 60)
    assert 0 < ratio.low < 116.7 < ratio.high
    assert ratio_interval(0.0, 1.0, 60) is None
    equal = bounded_interval(0.5, 0.0, 20, 40)  # one of two right about each image
    assert equal.low < 0.45
    assert equal.high > 0.55


def test_without_groups_it_is_the_ordinary_error():
    draw = random.Random(0)
    values = [float(draw.random() < 0.3) for _ in range(500)]
    alone = clustered_error(values, [str(n) for n in range(500)])
    assert alone == pytest.approx(stdev(values) / math.sqrt(500), rel=1e-9)


def test_questions_that_share_an_image_count_less():
    draw = random.Random(1)
    right = [float(draw.random() < 0.5) for _ in range(100)]
    names = list(map(str, range(100)))
    shared = clustered_error(right * 4, names * 4)  # four times the same answer
    assert shared == pytest.approx(clustered_error(right, names))


def test_quantiles_of_students_t():
    for freedom, value in ((4, 2.776), (9, 2.262), (29, 2.045), (1000, 1.962)):
        assert t_quantile(0.975, freedom) == pytest.approx(value, abs=2e-3)
    assert t_quantile(0.95, 4) == pytest.approx(2.132, abs=2e-3)


def f1_of(labels, credits):
    hits = np.sum((labels == 1) & (credits == 1))
    return 2 * hits / (2 * hits + np.sum(credits == 0)) if hits else 0.0


@pytest.mark.parametrize(("clusters", "size"), [(10, 6), (40, 4)])
def test_the_jackknife_holds_its_level_for_f1(clusters, size):
    """Hits and false alarms at rates that differ from image to image."""
    draw, held = np.random.default_rng(5), 0
    groups = np.repeat(np.arange(clusters), size).astype(str)
    labels = np.tile([1, 0], clusters * size // 2)
    truth = f1_of(np.tile([1, 0], 10**6), (draw.random(2 * 10**6) < 0.8).astype(int))
    for _ in range(150):
        rates = draw.beta(8, 2, clusters)
        credits = (draw.random((clusters, size)) < rates[:, None]).astype(int).ravel()

        def scores(indexes, credits=credits):
            return {"f1": (f1_of(labels[indexes], credits[indexes]), len(indexes))}

        found = jackknife(lambda indexes: scores(np.asarray(indexes)), groups)["f1"]
        interval = bounded_interval(found.value, found.error, found.folds, clusters * size)
        held += interval.low <= truth <= interval.high
    assert held / 150 > 0.9


def test_the_jackknife_of_a_mean_is_its_clustered_error():
    values, groups = clustered_answers(np.random.default_rng(1), 0.6, 50, 3, 0.4)
    found = jackknife(lambda own: {"": (mean(values[n] for n in own), len(own))}, groups)[""]
    assert found.error == pytest.approx(clustered_error(values, groups), rel=0.02)


def test_the_jackknife_of_many_clusters_leaves_out_random_groups():
    values, groups = clustered_answers(np.random.default_rng(1), 0.6, 2000, 1, 0)

    def scores(own):
        some = values[np.asarray(own)]
        return {"": (some.mean(), len(own)), "first": (some[0], 1)}

    found = jackknife(scores, groups)
    assert found[""].folds == 200
    assert found[""].error == pytest.approx(clustered_error(values, groups), rel=0.15)
    assert math.isnan(found["first"].error)  # nothing of it is ever left out


def mcnemar(wins, losses):
    """The exact test by its own formula: as many of so many coins, or more, on one side."""
    count = wins + losses
    tail = sum(math.comb(count, k) for k in range(max(wins, losses), count + 1)) / 2**count
    return min(1.0, 2 * tail)


def test_sign_flips_of_single_questions_are_mcnemars_exact_test():
    for wins, losses in product(range(6), range(5)):
        differences = np.array([1.0] * wins + [-1.0] * losses + [0.0] * 7)
        assert sign_flip_test(differences) == pytest.approx(mcnemar(wins, losses))
    for wins, losses in ((15, 5), (60, 40), (300, 240)):  # many changes are exact, too
        differences = np.array([0.01] * wins + [-0.01] * losses)
        assert sign_flip_test(differences) == pytest.approx(mcnemar(wins, losses), rel=1e-9)


def test_sign_flips_of_any_differences():
    """Every sign tried, against the exact distribution; and the normal one where there are many."""
    draw = np.random.default_rng(4)
    whole = draw.integers(1, 5, 12) * draw.choice([-1.0, 1.0], 12)
    tried = [abs(sum(np.abs(whole) * signs)) >= abs(whole.sum()) - 1e-9
             for signs in product([-1, 1], repeat=12)]  # fmt: skip
    assert sign_flip_test(whole) == pytest.approx(np.mean(tried))
    odd = whole * draw.uniform(0.9, 1.1, 12)  # no multiples of a step
    tried = [abs(sum(np.abs(odd) * signs)) >= abs(odd.sum()) - 1e-9
             for signs in product([-1, 1], repeat=12)]  # fmt: skip
    assert sign_flip_test(odd) == pytest.approx(np.mean(tried))
    many = draw.normal(0.1, 1, 400)
    assert sign_flip_test(many) == pytest.approx(
        2 * NormalDist().cdf(-abs(many.sum()) / math.sqrt(many @ many))
    )


def test_sign_flips_of_images_count_images():
    """Twenty changed answers about three images are three changes."""
    assert sign_flip_test(np.array([7.0, 7.0, 6.0])) == 0.25


@pytest.mark.parametrize(("clusters", "size", "gain"), [(8, 4, 0.1), (40, 2, 0.0), (300, 1, 0.05)])
def test_paired_intervals_hold_their_level(clusters, size, gain):
    draw, held = np.random.default_rng(11), 0
    for _ in range(TRIALS):
        first, groups = clustered_answers(draw, 0.5, clusters, size, 0.3)
        # Wrong answers become right a little more often than right ones become wrong.
        up, down = draw.random(len(first)) < 0.1 + 2 * gain, draw.random(len(first)) < 0.1
        second = np.where(first == 0, up, ~down).astype(float)
        sums = np.bincount(groups.astype(int), second - first) / len(first)
        error = clustered_error(second - first, groups)
        found = paired_interval((second - first).mean(), error, sums, clusters, 1.0)
        held += found.low <= gain <= found.high
    assert held / TRIALS > 0.925


def test_few_changes_are_not_certain():
    """Of 1,000 questions five became right and none wrong: McNemar's exact test says 0.06."""
    changes = np.array([1.0] * 5 + [0.0] * 995) / 1000
    names = list(map(str, range(1000)))
    error = clustered_error(changes * 1000, names)
    found = paired_interval(changes.sum(), error, changes, 1000, 1.0)
    assert found.low <= 0 < found.high
    nothing = paired_interval(0.0, 0.0, np.zeros(10), 10, 1.0)
    assert nothing.low < -0.02
    assert nothing.high > 0.02
    assert paired_interval(0.0, 0.0, np.zeros(4), 4, 1.0) is None
