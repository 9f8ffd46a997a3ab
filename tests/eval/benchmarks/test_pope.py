import pytest

from mgm.eval.benchmarks.pope import parse_pope_answer
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response
from mgm.eval.registry import BENCHMARKS
from tests.golden_files import golden_json

POPE = BENCHMARKS["pope"]


def test_records_of_the_published_script():
    for case in golden_json("eval/pope.json")["cases"]:
        assert [parse_pope_answer(text) for text in case["texts"]] == case["parsed"]
        pairs = list(zip(case["texts"], case["labels"], strict=False))
        questions = [Question(str(n), "", target=label, category="random")
                     for n, (_, label) in enumerate(pairs)]  # fmt: skip
        credits = [
            POPE.score_one(Response(question, text), "paper", Judge())
            for question, (text, _) in zip(questions, pairs, strict=True)
        ]
        score, parts = POPE.combine(questions, credits), POPE.parts(questions, credits)
        if "error" in case:
            assert score == 0  # the published one divides by zero
            continue
        printed = [float(number) for number in case["stdout"].splitlines()[-1].split(",")]
        assert score == pytest.approx(100 * printed[0], abs=0.05)
        assert parts["random: accuracy"][0] == pytest.approx(100 * printed[1], abs=0.05)
        assert parts["random: yes"][0] == pytest.approx(100 * printed[4], abs=0.05)


def scores(protocol: str, *pairs: tuple[str, str], kinds: str = "random") -> tuple[float, dict]:
    questions = [
        Question(str(n), "", target=label, category=kinds, metadata={"together": True})
        for n, (label, _) in enumerate(pairs)
    ]
    credits = [
        POPE.score_one(Response(question, text), protocol, Judge())
        for question, (_, text) in zip(questions, pairs, strict=True)
    ]
    return POPE.combine(questions, credits), POPE.parts(questions, credits)


def test_response_that_is_neither_yes_nor_no():
    """It is a miss for VLMEvalKit, but not for lmms-eval."""
    pairs = (("yes", "Yes"), ("no", "maybe"), ("yes", "maybe"))
    assert scores("vlmevalkit", *pairs)[0] == pytest.approx(100 * 2 / 3)
    assert scores("lmms-eval", *pairs)[0] == 100
    assert scores("vlmevalkit", *pairs)[1]["random: accuracy"] == (pytest.approx(100 / 3), 3)
    assert scores("vlmevalkit", *pairs)[1]["random: yes"] == (pytest.approx(100 / 3), 3)


def test_question_of_several_categories_counts_in_each():
    score, parts = scores("vlmevalkit", ("yes", "Yes"), kinds="adversarial,popular")
    assert score == 100
    assert {"adversarial: F1", "popular: F1"} <= set(parts)


def test_score_from_saved_credits():
    questions = [Question(str(n), "", target=label, category="random")
                 for n, label in enumerate(("yes", "no", "yes"))]  # fmt: skip
    assert POPE.combine(questions, [1.0, 0.0, 1.0]) == pytest.approx(100 * 4 / 5)
