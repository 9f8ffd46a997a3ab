"""Intervals against closed forms, and their coverage on simulated results with known truth."""

import math

import numpy as np
import pytest

from mgm.eval.statistics.intervals import t_quantile
from playground.ablation.report.statistics import (
    Estimate,
    Interval,
    estimates,
    freedom,
    resampled,
    seed_spread,
    seeds_needed,
    variances,
)

IMAGES, PER_IMAGE = 80, 3


def simulated(rng, seeds, differences, images=IMAGES, of_seeds=1.0, of_images=10.0):
    """Right answers (arms, seeds, images) of a reference, and of rivals that are worse than it.

    Args:
        of_seeds: standard deviation between seeds of an arm, in points.
        of_images: standard deviation of an image's effect on one arm, in points.
    """
    difficulty = rng.normal(0, 0.15, images)
    right = []
    for difference in (0.0, *differences):
        mean = 0.6 - difference / 100 + difficulty
        effect = rng.normal(0, of_images / 100, images) + rng.normal(0, of_seeds / 100, (seeds, 1))
        right.append(rng.binomial(PER_IMAGE, np.clip(mean + effect, 0, 1)))
    return np.stack(right).astype(float), np.full(images, float(PER_IMAGE))


def test_values_are_shares_of_questions_in_points():
    right = np.array([[[1, 0, 2], [1, 1, 2]]])
    totals = np.array([1, 1, 2])
    (estimate,) = estimates(np.tile(right, 3), np.tile(totals, 3))
    assert estimate.value == pytest.approx(100 * 7 / 8)
    assert (estimate.seeds, estimate.questions) == (2, 12)


def test_the_bootstrap_has_the_variance_of_its_closed_form():
    """For a balanced table of seeds x images (Owen, 2007, equation 6; n - 1 seeds are drawn)."""
    rng = np.random.default_rng(0)
    seeds, images = 5, 60
    table = (
        rng.normal(size=(seeds, images))
        + rng.normal(0, 2, (1, images))
        + rng.normal(0, 1, (seeds, 1))
    )
    draws = resampled(table[None], np.ones(images), 40_000)[:, 0] / 100
    of_seeds = table.mean(1).var() / (seeds - 1)
    of_images = table.mean(0).var() / images
    interaction = (table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()).var() / (
        (seeds - 1) * images
    )
    assert draws.var() == pytest.approx(of_seeds + of_images + interaction, rel=0.03)
    assert draws.mean() == pytest.approx(table.mean(), abs=0.02)


def test_one_seed_resamples_images_alone():
    rng = np.random.default_rng(1)
    right = rng.binomial(1, 0.5, (1, 1, 400)).astype(float)
    (estimate,) = estimates(right, np.ones(400))
    share = right.mean()
    half = 1.966 * 100 * math.sqrt(share * (1 - share) / 400)  # t of 399 degrees of freedom
    assert estimate.interval.high - estimate.value == pytest.approx(half, rel=0.05)


def test_variances_and_their_degrees_of_freedom():
    totals = np.ones(100)
    image_effects = np.random.default_rng(2).normal(size=100)
    of_seeds, of_images = variances(np.tile(image_effects, (4, 1)), totals)
    assert of_seeds == pytest.approx(0)
    assert of_images == pytest.approx(100**2 * image_effects.var(ddof=1) / 100)
    of_seeds, of_images = variances(np.array([[1.0], [2.0], [4.0], [9.0]]).repeat(100, 1), totals)
    assert of_images == pytest.approx(0)
    assert of_seeds == pytest.approx(100**2 * np.var([1, 2, 4, 9], ddof=1) / 4)
    assert freedom(0.0, 1.0, 4, 100) == pytest.approx(99)
    assert freedom(1.0, 0.0, 4, 100) == pytest.approx(3)
    assert freedom(1.0, 1.0, 4, 4) == pytest.approx(6)  # of two equal variances: the sum
    assert freedom(0.0, 0.0, 4, 100) == 99


@pytest.mark.parametrize("seeds", [1, 4])
def test_errors_are_those_of_random_effects(seeds):
    """The mean over many simulated tables is the variance of the mean of all effects."""
    rng = np.random.default_rng(3)
    images, squared_errors = 60, []
    for _ in range(60):
        table = rng.normal(0, 3, (seeds, images)) + rng.normal(0, 0.5, (1, images))
        table += rng.normal(0, 0.2, (seeds, 1))
        (estimate,) = estimates(table[None], np.ones(images), draws=1000)
        half = estimate.interval.high - estimate.value
        degrees = freedom(*variances(table, np.ones(images)), seeds, images)
        squared_errors.append((half / 100 / t_quantile(0.975, degrees)) ** 2)
    of_seeds = 0.2**2 / seeds if seeds > 1 else 0.0
    true = 3**2 / (seeds * images) + 0.5**2 / images + of_seeds
    # Where the correction would go below the variance of one part, that one is taken.
    assert 0.9 * true < np.mean(squared_errors) < 1.4 * true


def test_simultaneous_intervals_are_wider_but_not_than_bonferroni():
    rng = np.random.default_rng(3)
    right, totals = simulated(rng, 6, (0.0, 0.0, 0.0), images=200)
    differences = right[0] - right[1:]
    single = estimates(differences, totals)
    family = estimates(differences, totals, simultaneous=True)
    for one, all_three in zip(single, family, strict=True):
        ratio = (all_three.interval.high - one.value) / (one.interval.high - one.value)
        assert 1 < ratio < 2.394 / 1.960 * 1.03  # normal quantiles of 5 % / 3 and of 5 %
    # A family of equal differences is one difference.
    same = estimates(np.stack([differences[0]] * 3), totals, simultaneous=True)[0]
    assert same.interval.high == pytest.approx(single[0].interval.high, rel=0.02)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 5.0, "better"),
        (-5.0, -0.1, "worse"),
        (-1.9, 1.9, "equivalent"),
        (-2.1, 1.0, "undecided"),
        (-1.0, 2.1, "undecided"),
        (0.1, 1.0, "better"),
    ],
)
def test_verdicts(low, high, verdict):
    assert Estimate((low + high) / 2, Interval(low, high), 5, 100).verdict == verdict


def test_no_interval_without_images_or_questions():
    few = estimates(np.ones((1, 3, 4)), np.ones(4))[0]
    assert (few.value, few.interval, few.verdict) == (100.0, None, "undecided")
    equal = estimates(np.full((1, 3, 9), 2.0), np.full(9, 2.0))[0]
    assert (equal.value, equal.interval) == (100.0, None)
    none = estimates(np.zeros((1, 3, 9)), np.zeros(9))[0]
    assert math.isnan(none.value)
    assert none.questions == 0


def test_seeds_needed_are_those_of_the_plan():
    # (t(0.975; n - 1) + 0.84) s sqrt(2 / n) for s = 1: 4.2 with 3 seeds, 2.3 with 5, 1.6 with 8.
    assert seeds_needed(1.0, 4.21) == 3
    assert seeds_needed(1.0, 2.29) == 5
    assert seeds_needed(1.0, 1.61) == 8
    assert seeds_needed(1.5, 3.44) == 5
    assert seeds_needed(5.0, 0.1) is None
    right = np.array([[1.0, 1.0], [1.0, 2.0], [2.0, 2.0]])
    assert seed_spread(right, np.array([2.0, 2.0])) == pytest.approx(25.0)
    assert seed_spread(right[:1], np.array([2.0, 2.0])) is None


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_coverage_and_level(seeds):
    """Of intervals of three differences: each, all at once, and how often 0 is missed."""
    rng = np.random.default_rng(seeds)
    truth = (0.0, 2.0, 5.0)
    runs, covered, all_covered, rejected = 400, 0, 0, 0
    for _ in range(runs):
        right, totals = simulated(rng, seeds, truth)
        differences = right[0] - right[1:]
        single = estimates(differences, totals, draws=500)
        family = estimates(differences, totals, simultaneous=True, draws=500)
        covered += sum(
            one.interval.low <= true <= one.interval.high
            for one, true in zip(single, truth, strict=True)
        )
        all_covered += all(
            one.interval.low <= true <= one.interval.high
            for one, true in zip(family, truth, strict=True)
        )
        rejected += family[0].verdict in ("better", "worse")
    error = 3 * math.sqrt(0.05 * 0.95 / runs)  # three standard errors of the simulation
    assert covered / (3 * runs) > 0.95 - error
    assert all_covered / runs > 0.95 - error
    assert rejected / runs < 0.05 + error
