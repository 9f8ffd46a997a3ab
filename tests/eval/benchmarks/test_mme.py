import pytest

from mgm.eval.benchmarks.mme import parse_mme_answer, parse_mme_as_lmms_eval
from mgm.eval.harness.question import Question
from mgm.eval.registry import BENCHMARKS

MME = BENCHMARKS["mme"]


@pytest.mark.parametrize(
    ("text", "by_paper", "by_lmms_eval"),
    [("Yes", "yes", "yes"), ("no way", "no", "no"), ("Y", "other", "yes"), ("N.", "other", "no"),
     ("...yes", "other", "yes"), ("  no", "no", "no"), ("Know", "no", "no"),
     ("", "other", "other")],
)  # fmt: skip
def test_parsers(text, by_paper, by_lmms_eval):
    assert parse_mme_answer(text) == by_paper
    assert parse_mme_as_lmms_eval(text) == by_lmms_eval


def test_perception_and_cognition_with_their_maxima():
    questions = [
        Question(f"{kind}{image}{n}", "", group=f"{kind}{image}", category=kind)
        for kind in ("count", "OCR", "code_reasoning")
        for image in "ab"
        for n in range(2)
    ]
    credits = [1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 0]
    parts = MME.parts(questions, credits)
    assert parts["count"] == (75 + 50, 4)
    assert parts["perception"] == (125 + 200, 8)
    assert parts["cognition"] == (25, 4)
    assert MME.combine(questions, credits) == 350
    assert [MME.highest(questions, part) for part in ("", *MME.headline, "OCR")] == [
        600, 400, 200, 200,
    ]  # fmt: skip
