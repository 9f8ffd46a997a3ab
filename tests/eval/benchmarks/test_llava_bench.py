import pytest

from mgm.eval.benchmarks.llava_bench import parse_scores, review_prompt
from mgm.eval.harness.question import Question, Response
from mgm.eval.registry import BENCHMARKS
from mgm.eval.report.scoring import score_responses
from tests.eval.scripted_judge import ScriptedJudge

BENCH = BENCHMARKS["llava-bench"]


def score_of(*reviews: str):
    metadata = {"caption": ["A dog.", "A cat."], "prompt": "What is it?"}
    responses = [
        Response(Question(str(n), "", target="a dog", category="conv", metadata=metadata), "a cat")
        for n in range(len(reviews))
    ]
    questions = [one.question for one in responses]
    return score_responses(BENCH, "test", "paper", questions, responses, _InOrder(*reviews))


class _InOrder(ScriptedJudge):
    """Returns one review per question, however often it is requested."""

    def __init__(self, *replies: str) -> None:
        super().__init__(*replies)
        self.systems: list[str] = []

    def complete(self, prompt, temperature=0.0, max_tokens=128, accepts=None, system=""):
        self.systems.append(system)
        reply = self.replies[0]
        if accepts(reply) or temperature > 0.7:
            self.replies.pop(0)
        return reply


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch):
    monkeypatch.setattr("mgm.eval.report.scoring.JUDGE_THREADS", 1)


def test_score_is_the_ratio_of_mean_marks():
    score = score_of("10 5", "2 4", "9 9")
    assert score.value == pytest.approx(100 * 18 / 21)
    assert score.parts["conv"] == (pytest.approx(100 * 18 / 21), 3)
    assert score_of("5 10", "4 8").value == 200  # a higher mark than the reference


def test_review_without_marks():
    score = score_of("10 5", "Both are good.", "9 9")
    assert score.value == pytest.approx(100 * (5 - 1 + 9) / (10 - 1 + 9))
    assert "Both are good." in score.notes["1"]


@pytest.mark.parametrize(
    ("review", "marks"),
    [("8 9", (8, 9)), ("8.5,7\nwhy", (8.5, 7)), ("8 9.", (8, 9)), ("9, 8", None), ("8 9 ", None),
     ("", None), ("8/10 9/10", None), ("nan 5", None), ("inf 5", None), ("8\n9", None)],
)  # fmt: skip
def test_marks(review, marks):
    assert parse_scores(review) == marks


def test_judge_prompt_equals_llava():
    metadata = {"caption": ["A dog.", "A cat."], "prompt": "What?"}
    prompt = review_prompt(Response(Question("1", "", target="x", metadata=metadata), ""))
    assert prompt.startswith(
        "[Context]\nA dog.\nA cat.\n\n[Question]\nWhat?\n\n[Assistant 1]\nx\n\n"
    )
    assert "[Assistant 2]\n\n\n[End of Assistant 2]\n\n[System]\nWe would like" in prompt
    assert prompt.endswith("does not affect your judgment.\n\n")
