import pytest

from mgm.eval.benchmarks.mmvet import GRADING_ATTEMPTS, grading_prompt, parse_grade
from mgm.eval.harness.question import Question, Response
from mgm.eval.registry import BENCHMARKS
from tests.eval.differential.case import read_fixture
from tests.eval.differential.test_replay import CASES, replayed_question
from tests.eval.scripted_judge import ScriptedJudge

MMVET = BENCHMARKS["mmvet"]
PROTOCOLS = ("paper", "lmms-eval", "vlmevalkit")


@pytest.mark.parametrize(
    ("reply", "mark"),
    [("0.7", 0.7), ("1", 1), ("1.0 since", 1.0), ("100%", None), ("10", None), ("0,7", None),
     ("-0.1", None), ("nan", None), ("Score: 1", None), ("", None), ("½", None)],
)  # fmt: skip
def test_marks(reply, mark):
    for protocol in PROTOCOLS:
        whole = protocol == "vlmevalkit" and " " in reply
        assert parse_grade(reply, protocol) == (None if whole else mark), protocol


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_replies_without_a_grade(protocol):
    question = Question("1", "", target="a cat", metadata={"question": "What?"})
    judge = ScriptedJudge(*["soon"] * GRADING_ATTEMPTS[protocol])
    credit = MMVET.score_one(Response(question, "a dog"), protocol, judge)
    assert credit == 0
    assert "'soon'" in credit.note
    assert judge.replies == []
    assert MMVET.score_one(Response(question, "a dog"), protocol, ScriptedJudge("10", "0.4")) == 0.4


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_judge_prompts_of_each_evaluator(protocol):
    case = CASES[f"mmvet-test_{protocol}"]
    _, records = read_fixture(case)
    prompts = [record for record in records if "judge_prompt" in record]
    assert len(prompts) == 100
    for record in prompts:
        question = replayed_question(case, record)
        text = MMVET.filter_response(Response(question, record["answer"]), protocol).text
        ours = grading_prompt(question.metadata["question"], question.target, text, protocol)
        assert ours == record["judge_prompt"]
