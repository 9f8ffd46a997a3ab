import copy
import pickle

import pytest

from mgm.eval.harness.question import Credit, ratio_of_sums


def test_ratio_of_sums():
    assert ratio_of_sums([Credit(0.5, 5, 10), Credit(0.4, 4, 2), Credit(0.9, 9, 9)]) == 18 / 21
    assert ratio_of_sums([1.0, 0.0, Credit(1.0)]) == pytest.approx(2 / 3)  # numbers add 1 below
    assert ratio_of_sums([Credit(1.0, 0, 0)]) == 0  # nothing counts
    assert ratio_of_sums([]) == 0


def test_copies_keep_extra_fields():
    credit = Credit(0.5, 5, 10, "a note")
    for same in (copy.copy(credit), copy.deepcopy(credit), pickle.loads(pickle.dumps(credit))):
        assert (same, same.numerator, same.denominator, same.note) == (0.5, 5, 10, "a note")
