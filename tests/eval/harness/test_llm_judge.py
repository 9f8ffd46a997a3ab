"""Replies of LLM judges: caching, retries, reasoning."""

import json
import time

import pytest

from mgm.errors import MGMError
from mgm.eval.benchmarks.mmvet import MMVet
from mgm.eval.harness.llm_judge import Judge, ModelJudge
from mgm.eval.harness.openai_client import MAX_CONSECUTIVE_FAILURES
from mgm.eval.harness.question import Question, Response
from mgm.eval.report.scoring import score_responses
from tests.eval.harness.misbehaving_server import Reply, refused, reply_with, server


def judge(address: str, tmp_path) -> ModelJudge:
    return ModelJudge("gpt", address, tmp_path / "judge.jsonl", wait=0.001, timeout=5.0)


def is_mark(text: str) -> bool:
    return text in ("0", "1")


def test_only_parseable_replies_are_cached(tmp_path):
    with server(reply_with("well"), reply_with(None), reply_with("1"), reply_with("0")) as (
        address,
        bodies,
    ):
        llm_judge = judge(address, tmp_path)
        replies = [llm_judge.complete("x", accepts=is_mark) for _ in range(4)]
        assert replies == ["well", "", "1", "1"]
        again = judge(address, tmp_path)
        assert again.complete("x", accepts=is_mark) == "1"
        assert again.usage.requests == 0
        assert len(bodies) == 3
    kept = [
        json.loads(line)["text"] for line in (tmp_path / "judge.jsonl").read_text().splitlines()
    ]
    assert kept == ["1"]


def test_unparseable_cache_entries_are_requested_again(tmp_path):
    """A reply that cannot be parsed, and damaged lines."""
    with server(reply_with("well"), reply_with("1")) as (address, bodies):
        judge(address, tmp_path).complete("x")  # all are cached
        file = tmp_path / "judge.jsonl"
        key = json.loads(file.read_text())["key"]
        odd = ["", "[" * 100_000, "7", "null", '{"key": 1, "text": "1"}', json.dumps({"key": key})]
        odd += [json.dumps({"key": key, "text": text}) for text in (None, 3, {"a": [1]}, ["1"])]
        file.write_text(file.read_text() + "\n".join(odd) + '\n{"key": "' + key)
        assert judge(address, tmp_path).complete("x", accepts=is_mark) == "1"
        assert judge(address, tmp_path).complete("x", accepts=is_mark) == "1"
        assert len(bodies) == 2


def test_reasoning_is_removed(tmp_path):
    with server(reply_with("<think>0, or perhaps</think>\n1")) as (address, _):
        assert judge(address, tmp_path).complete("x", accepts=is_mark) == "1"


def questions(count: int) -> list[Question]:
    return [Question(str(n), f"What is {n}?", target=f"{n}", metadata={"question": f"What is {n}?"})
            for n in range(count)]  # fmt: skip


@pytest.mark.parametrize(
    "fault",
    [
        refused("content filter"),
        Reply({"error": "overloaded"}, 500),
        Reply(b"<html>"),
        Reply({"choices": []}),
        Reply(close=True),
    ],
)
def test_error_of_one_question_skips_it(fault, tmp_path):
    def answer(body):
        return fault if "What is 1?" in body["messages"][0]["content"] else reply_with("1.0")

    responses = [Response(one, f"{one.target}.") for one in questions(3)]
    with server(answer) as (address, _):
        score = score_responses(
            MMVet(), "test", "paper", questions(3), responses, judge(address, tmp_path)
        )
    assert score.value == 100
    assert (score.questions, score.complete) == (2, False)
    assert [one.id for one in score.skipped] == ["1"]
    assert "the judge gpt" in score.skipped[0].reason


def test_repeated_errors_stop_the_judge(tmp_path):
    responses = [Response(one, "x") for one in questions(3 * MAX_CONSECUTIVE_FAILURES)]
    with server(Reply(b"<html>")) as (address, bodies):
        llm_judge = judge(address, tmp_path)
        with pytest.raises(MGMError, match="no response can be scored"):
            score_responses(MMVet(), "test", "paper", questions(60), responses, llm_judge)
        assert "20 consecutive requests failed" in llm_judge.unavailable
        assert len(bodies) < 5 * (MAX_CONSECUTIVE_FAILURES + 20)


@pytest.mark.parametrize("fault", [refused("no money left", 402), Reply(b"<html>")])
def test_partial_replies_are_scored(tmp_path, fault):
    responses = [Response(one, "x") for one in questions(60)]
    with server(reply_with("1.0"), reply_with("0.5"), fault) as (address, _):
        llm_judge = judge(address, tmp_path)
        score = score_responses(MMVet(), "test", "paper", questions(60), responses, llm_judge)
    assert (score.value, score.questions, score.complete) == (75.0, 2, False)
    assert len(score.skipped) == 58
    assert all("the judge gpt" in one.reason for one in score.skipped)
    assert llm_judge.unavailable


def test_concurrent_requests_to_a_reasoning_judge(tmp_path):
    def answer(body):
        time.sleep(0.05)
        return reply_with("<think>well</think>1.0" if body["max_tokens"] > 100 else "<think>we")

    responses = [Response(one, one.target) for one in questions(40)]
    with server(answer) as (address, _):
        score = score_responses(
            MMVet(), "test", "paper", questions(40), responses, judge(address, tmp_path)
        )
    assert (score.value, score.questions) == (100, 40)


def test_judge_without_a_reply_is_an_error(tmp_path):
    responses = [Response(one, "x") for one in questions(3)]
    for reply in (refused("bad key", 401), refused("no model", 404)):
        with server(reply) as (address, bodies):
            with pytest.raises(
                MGMError, match=r"no response can be scored \(the judge gpt refuses"
            ):
                score_responses(
                    MMVet(), "test", "paper", questions(3), responses, judge(address, tmp_path)
                )
            assert len(bodies) <= 16
    with pytest.raises(MGMError, match="there is no judge"):
        Judge().complete("x")
