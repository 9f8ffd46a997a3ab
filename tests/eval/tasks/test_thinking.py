import pytest

from mgm.eval.harness.question import Question, Response
from mgm.eval.registry import BENCHMARKS
from mgm.eval.tasks.thinking import strip_thinking


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>A</think>\nB ", "B"),
        ("<think>A</think>B<think>C</think>", "B"),
        ("maybe A</think>B", "B"),
        ("<think>A", "<think>A"),
        ("<analysis>A</analysis><think>C</think> B", "B"),
        ("</think>A<think>B", "</think>A<think>B"),
        ("<THINK>A</THINK>B", "<THINK>A</THINK>B"),
    ],
)
def test_reasoning_is_removed(text, answer):
    assert strip_thinking(text) == answer


def test_scorer_and_files_get_the_response_without_reasoning():
    seed, response = (
        BENCHMARKS["seed"],
        Response(Question("1", "?", target="B"), "<think>A</think>B"),
    )
    assert seed.filter_response(response, "lmms-eval").text == "B"
    assert seed.filter_response(response, "paper") is response
    assert seed.filter_response(response, "paper", without_thinking=True).text == "B"
