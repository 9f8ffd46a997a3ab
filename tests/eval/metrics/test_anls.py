"""Edit distance compared with its definition, and ANLS."""

import time
from functools import cache

import pytest

from mgm.eval.metrics.anls import anls, edit_distance


def test_distance_equals_its_definition():
    """By recursion over all edits, for similar and different texts."""
    texts = ["", "a", "ab", "ba", "kitten", "sitting", "flaw", "lawn", "na\u00efve", "naive"]
    for first in texts:
        for second in texts:

            @cache
            def min_distance(
                left: int, right: int, first: str = first, second: str = second
            ) -> int:
                if not left or not right:
                    return left + right
                other = first[left - 1] != second[right - 1]
                return min(
                    min_distance(left - 1, right) + 1,
                    min_distance(left, right - 1) + 1,
                    min_distance(left - 1, right - 1) + other,
                )

            assert edit_distance(first, second) == min_distance(len(first), len(second))


def test_whitespace_counts_in_the_length_only():
    assert anls("Dr.  Who ", "dr. who") == 1
    assert anls("12", "1  3") == pytest.approx(0.5)  # 2 of 4; without whitespace 2 of 3
    assert anls("", "") == 1
    assert anls("cat", "dog") == 0
    assert anls("strasse", "straße") == pytest.approx(1 - 2 / 7)


def test_long_responses_are_fast():
    start = time.process_time()
    assert anls("x" * 1_000_000, "x" * 1000) == 0
    assert time.process_time() - start < 1
