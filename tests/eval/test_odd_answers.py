"""Every benchmark scores any response with every protocol."""

import json
import math

import pytest

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Response
from mgm.eval.registry import BENCHMARKS
from mgm.eval.report.score import load_score, write_score_files
from mgm.eval.report.scoring import score_responses
from tests.eval.every_protocol import protocols, questions_of
from tests.eval.fixtures import make_all
from tests.eval.scripted_judge import ScriptedJudge

ODD = {
    "empty": "", "blank": " \n\t ", "a letter": "B", "a stop": ".", "marks": "%(*[{,'\"\\",
    "a pattern": r"(?P<x>[a-z]*)+$ \1 .*?", "null": "null", "nan": "nan", "None": "None",
    "infinite": "inf", "too large": "1e999", "-": "-", "many digits": "9" * 5000,
    "a fraction": "1/0", "a cut list": "[1, [2", "nested": "[" * 3000, "JSON": '{"answer": ["B"]}',
    "half a pair": "\ud83d", "controls": "\0\x01\x1b[2J\x7f", "full width": "Ｂ．　①",
    "both": "yes no",
    "markers": "<image>\n<image 1><|im_end|></s>", "a thought": "<think>B", "thoughts": "</think>",
    "a formula": "\\boxed{\\frac{1}{", "a table": "=1+1\t;\r\n", "line breaks": "\n" * 3000,
    "choices": "A B C D", "a tail": "B" + " " * 3000 + ".",
}  # fmt: skip
HUGE = {
    "letters": "A" * 100_000,
    "words": "the answer is (B) red yes 4. " * 3500,
    "digits": "7" * 100_000,
    "open": "(" * 100_000,
}
REPLIES = ("", "B", "0.5", "8 9", "[" * 3000, "1e999", "\ud83d", "x" * 5000)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_all(tmp_path_factory.mktemp("data"))


def check(score, count: int) -> None:
    assert score.skipped == ()
    assert score.questions == count
    assert math.isfinite(score.value)
    assert 0 <= score.value <= (math.inf if score.highest is None else score.highest + 1e-9)
    assert all(credit >= 0 for credit in score.credits.values())


@pytest.mark.parametrize(("name", "split", "protocol"), protocols())
def test_unusual_responses_are_scored(data, tmp_path, name, split, protocol):
    """And can be written to submission files."""
    kind, questions = BENCHMARKS[name], questions_of(data, name, split, protocol)
    assert questions
    for number, odd in enumerate(ODD.values()):
        responses = [Response(one, odd) for one in questions]
        score = score_responses(
            kind, split, protocol, questions, responses, Judge(), without_thinking=True
        )
        check(score, len(questions))
        if number % 6 == 0:
            write_score_files(kind, split, score, responses, tmp_path)
            assert load_score(tmp_path / "score.json") == score
    responses = [Response(one, odd) for one in questions for odd in ODD.values()]
    check(score_responses(kind, split, protocol, questions, responses, Judge()), len(responses))
    write_score_files(kind, split, score, responses, tmp_path)
    for file in tmp_path.glob("*.json*"):
        for line in file.read_text().splitlines() if file.suffix == ".jsonl" else ():
            json.loads(line)


@pytest.mark.parametrize(
    "odd", ["digits", *(pytest.param(n, marks=pytest.mark.slow) for n in HUGE if n != "digits")]
)
@pytest.mark.parametrize(("name", "split", "protocol"), protocols())
def test_huge_response_is_scored(data, name, split, protocol, odd):
    kind, questions = BENCHMARKS[name], questions_of(data, name, split, protocol)
    responses = [Response(one, HUGE[odd]) for one in questions]
    check(score_responses(kind, split, protocol, questions, responses, Judge()), len(questions))


@pytest.mark.parametrize(
    ("name", "split", "protocol"),
    [one for one in protocols() if one[2] in BENCHMARKS[one[0]].judged],
)
def test_unusual_replies_of_a_judge(data, name, split, protocol):
    kind, questions = BENCHMARKS[name], questions_of(data, name, split, protocol)[:2]
    responses = [Response(one, "It is hard to say.") for one in questions]
    for reply in REPLIES:
        judge = ScriptedJudge(*[reply] * 50)
        score = score_responses(kind, split, protocol, questions, responses, judge)
        check(score, len(questions))
