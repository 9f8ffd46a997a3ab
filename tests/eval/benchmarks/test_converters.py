"""Files and results of published converters: GQA, MM-Vet, SEED-Bench, ScienceQA."""

import json

import pytest

from mgm.eval.benchmarks.gqa import official_predictions
from mgm.eval.benchmarks.scienceqa import predicted_index
from mgm.eval.benchmarks.seed import is_seed_match
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response
from mgm.eval.registry import BENCHMARKS
from tests.golden_files import golden_json


@pytest.fixture(scope="module")
def records():
    return golden_json("eval/converters.json")


def responses_of(results: list[dict]) -> list[Response]:
    return [Response(Question(str(one["question_id"]), ""), one["text"]) for one in results]


def test_gqa(records):
    assert (
        json.dumps(official_predictions(responses_of(records["gqa"]["results"])))
        == records["gqa"]["output_text"]
    )


def test_mmvet(records, tmp_path):
    _, path = BENCHMARKS["mmvet"].submission(
        responses_of(records["mmvet"]["results"]), tmp_path, "test"
    )
    assert path.read_text() == records["mmvet"]["output_text"]


def test_seed(records):
    record = records["seed"]
    kinds = {number: name for name, number in record["annotation"]["question_type"].items()}
    questions = [
        Question(
            one["question_id"],
            "",
            target=one["answer"],
            category=f"{one['data_type']}: {kinds[one['question_type_id']]}",
        )
        for one in record["annotation"]["questions"]
    ]
    texts = [one["text"] for one in record["results"]]
    seed = BENCHMARKS["seed"]
    pairs = [Response(question, text) for question, text in zip(questions, texts, strict=True)]
    credits = [seed.score_one(one, "paper", Judge()) for one in pairs]
    parts = seed.parts(questions, credits)
    scores = {"Total accuracy": seed.combine(questions, credits)}
    scores |= {f"{kind} accuracy": parts[kind][0] for kind in ("image", "video")}
    for name in kinds.values():
        own = [c for one, c in zip(questions, credits, strict=True) if one.category.endswith(name)]
        scores[name] = 100 * sum(own) / len(own)
    printed = dict(line.split(": ") for line in record["stdout"].splitlines())
    assert {name: f"{value:.2f}%" for name, value in scores.items()} == printed
    assert is_seed_match("A. ", "A", "official")


def test_scienceqa(records):
    for record in records["science_qa"]["get_pred_idx"]:
        assert predicted_index(record["prediction"], record["choices"]) == record["output"]
