import math
import random
from statistics import mean, stdev

import pytest

from mgm.eval.report.statistics import clustered_error, compare, drawn_interval, mean_interval


def test_without_groups_it_is_the_ordinary_error():
    draw = random.Random(0)
    values = [float(draw.random() < 0.3) for _ in range(500)]
    alone = clustered_error(values, [str(n) for n in range(500)])
    assert alone == pytest.approx(stdev(values) / math.sqrt(500), rel=2e-3)


def test_questions_that_share_an_image_count_less():
    draw = random.Random(1)
    values, groups = [], []
    for image in range(100):
        right = float(draw.random() < 0.5)
        values += [right] * 4  # four times the same answer
        groups += [str(image)] * 4
    shared = clustered_error(values, groups)
    assert shared == pytest.approx(
        2 * clustered_error(values, list(map(str, range(400)))), rel=1e-2
    )
    low, high = (getattr(mean_interval(values, groups, 100), end) for end in ("low", "high"))
    drawn = drawn_interval(lambda places: 100 * mean(values[n] for n in places), groups)
    assert drawn.low == pytest.approx(low, abs=1.5)
    assert drawn.high == pytest.approx(high, abs=1.5)


def test_the_interval_holds_the_truth_in_19_of_20_cases():
    draw, held = random.Random(2), 0
    for _ in range(400):
        values = [float(draw.random() < 0.7) for _ in range(200)]
        found = mean_interval(values, [str(n) for n in range(200)])
        held += found.low <= 0.7 <= found.high
    assert 0.92 < held / 400 < 0.98


def test_two_models_question_by_question():
    draw = random.Random(3)
    first = [float(draw.random() < 0.6) for _ in range(2000)]
    better = [max(one, float(draw.random() < 0.1)) for one in first]
    groups = [str(n) for n in range(2000)]
    found = compare(first, better, groups)
    assert found.differ
    assert found.difference == pytest.approx(100 * (mean(better) - mean(first)))
    assert found.needed < 2000
    some = compare(first[:60], better[:60], groups[:60])
    assert not some.differ or some.needed <= 60
    same = compare(first, first, groups)
    assert (same.difference, same.needed, same.differ) == (0, None, False)
