"""Distances of texts against another formula, and scores against the published evaluator."""

from functools import cache

import pytest

from mgm.eval.metrics.anls import anls, edit_distance, harness_anls
from tests.golden_files import golden_json


def test_every_similarity_of_the_published_evaluator():
    records = golden_json("eval/textvqa.json")["anls"]
    assert len(records) > 40
    assert any(one["anls"] for one in records)
    for record in records:
        assert anls(record["a"], record["b"]) == pytest.approx(record["anls"]), record


def test_distance_is_that_of_the_definition():
    """Which tries all ways, on texts of which some are far apart and some near."""
    texts = ["", "a", "ab", "ba", "kitten", "sitting", "flaw", "lawn", "na\u00efve", "naive"]
    for first in texts:
        for second in texts:

            @cache
            def least(left: int, right: int, first: str = first, second: str = second) -> int:
                if not left or not right:
                    return left + right
                other = first[left - 1] != second[right - 1]
                return min(
                    least(left - 1, right) + 1,
                    least(left, right - 1) + 1,
                    least(left - 1, right - 1) + other,
                )

            assert edit_distance(first, second) == least(len(first), len(second))


def test_harnesses_count_blanks_in_the_length_alone():
    assert harness_anls("Dr.  Who ", "dr. who") == 1
    assert harness_anls("12", "1  3") == pytest.approx(0.5)  # 2 of 4; without blanks 2 of 3
    assert harness_anls("", "") == 1
    assert harness_anls("cat", "dog") == 0
