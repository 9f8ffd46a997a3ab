import pytest

from mgm.eval.metrics.lmms_eval import exact_match, mcq_letter
from mgm.eval.metrics.multiple_choice import (
    chosen_letter,
    contained_choice,
    format_choices,
    parse_choice,
)
from mgm.eval.metrics.vlmevalkit import _infer_letter, choices_of, infer_letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("B", "B"), (" (B)", "B"), ("B. a dog", "B"), ("The answer is B.", "B"), ("", None),
     ("Bob", None), ("it is A or B", None), ("E", None), ("b", None), ("\n", None)],
)  # fmt: skip
def test_letter_at_the_start(answer, letter):
    assert chosen_letter(answer, 4) == letter


def test_choices_as_list_and_dictionary():
    assert (
        format_choices(["red", "blue"])
        == format_choices({"A": "red", "B": "blue"})
        == "A. red\nB. blue"
    )
    assert format_choices({"A": "red", "C": "blue"}) == "A. red\nC. blue"
    assert contained_choice("It is BLUE", {"A": "red", "C": "blue"}) == "C"
    assert contained_choice("red or blue", ["red", "blue"]) is None
    assert parse_choice("(A) no, (B)", ["red", "blue"]) == "B"


def test_choices_like_nan():
    row = {"A": "None", "B": "none", "C": "nan", "D": "NA ", "E": "", "F": None, "G": "3"}
    assert choices_of(row) == {"B": "none", "D": "NA ", "G": "3"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("The correct answer is **B**, since it is far from the end of these words", "B"),
        ("the answer is a cat that one can see far away on the right", "A"),
        ("Cannot determine the answer: B", "Z"),
        ("I'm sorry, but without the image provided", "Z"),
        ("Failed to obtain answer via API B", None),
        ("B and then many more words follow here", None),
        ("It is blue", "B"),
    ],
)
def test_vlmevalkit_letters(answer, letter):
    assert infer_letter(answer, {"A": "red car", "B": "blue", "C": "three dogs"}) == letter


def test_lmms_eval_letters():
    assert mcq_letter("First A. Then (B), so the answer is (C)", "ABCD") == "C"
    assert mcq_letter("", "ABCD") == mcq_letter("red", "ABCD") == ""
    assert exact_match("(b).", "B")
    assert not exact_match("B c", "B")


def test_lower_case_lengths_of_vlmevalkit():
    """Lower case for the response; for choices only from the second attempt on."""
    choices = {"A": "\u0130", "B": "x"}
    assert infer_letter("\u0130\u0130", choices) == "A"
    assert infer_letter("\u0130\u0130\u0130", choices) is None  # six characters in lower case
    own = dict(choices)
    assert _infer_letter("?", own) is None
    assert own == {"A": "i\u0307", "B": "x"}
    assert _infer_letter("\u0130\u0130\u0130", own) == "A"
