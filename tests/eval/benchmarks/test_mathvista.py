import pytest

from mgm.eval.benchmarks.mathvista import MathVista, lmms_eval_prompt, paper_prompt
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response
from mgm.eval.metrics.anls import edit_distance
from mgm.eval.metrics.mathvista_extraction import (
    extraction_prompt,
    literal_extraction,
    nearest_choice,
    normalize_extraction,
    values_equal,
)
from mgm.eval.tasks.prompts import LETTER_PROMPT
from tests.eval.scripted_judge import ScriptedJudge
from tests.golden_files import golden_json


@pytest.fixture(scope="module")
def records():
    return golden_json("eval/mathvista.json")


def test_queries(records):
    for record in records["create_one_query"]:
        if "error" in record:
            assert paper_prompt(record["problem"]) == "Question: Ratio? (Unit: $)"
        else:
            assert paper_prompt(record["problem"]) == record["output"]


def test_extraction(records):
    prompt = records["create_test_prompt"]
    assert extraction_prompt(prompt["query"], prompt["response"]) == prompt["output"]
    for record in records["extract_answer"]:
        extracted = literal_extraction(record["response"], record)
        if record["output"] == "<<LLM>>":
            assert extracted is None, record
        elif not record["quick_extract"]:
            assert extracted == record["output"], record


def test_normalisation(records):
    for record in records["normalize_extracted_answer"]:
        own = {name: value for name, value in record.items() if name != "output"}
        assert normalize_extraction(**own) == record["output"], record


def test_distances(records):
    for record in records["levenshtein"]:
        assert edit_distance(record["a"], record["b"]) == record["d"]
    for record in records["get_most_similar"]:
        assert nearest_choice(record["prediction"], record["choices"]) == record["output"]
    for record in records["safe_equal"]:
        assert values_equal(record["a"], record["b"]) == record["output"]


CHOICE = {"question_type": "multi_choice", "answer_type": "text", "choices": ["red", "blue", "12"]}
NUMBER = {"question_type": "free_form", "choices": [], "precision": 1}


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (CHOICE | {"unit": ""}, f"Which?\nA. red\nB. blue\nC. 12\n{LETTER_PROMPT}"),
        (
            NUMBER | {"answer_type": "integer", "unit": "$"},
            "Which? (Unit: $)\nAnswer the question using a single integer number.",
        ),
        (
            NUMBER | {"answer_type": "float"},
            "Which?\nAnswer the question using a single floating-point number with one decimal "
            "place.",
        ),
        (NUMBER | {"answer_type": "list"}, "Which?\nAnswer the question using a Python list."),
        (NUMBER | {"answer_type": "float", "precision": 3}, "Which?"),
    ],
)
def test_lmms_eval_prompts(problem, expected):
    assert lmms_eval_prompt(problem | {"question": "Which?"}) == expected


@pytest.mark.parametrize(
    ("problem", "answer", "text", "judge", "credit"),
    [
        (CHOICE, "blue", "B", ScriptedJudge(), 1),  # no request to the judge
        (CHOICE, "blue", "It is blue.", ScriptedJudge(), 1),
        (CHOICE, "blue", "red", ScriptedJudge(), 0),
        (
            CHOICE,
            "blue",
            "the sky",
            ScriptedJudge("", "B"),
            1,
        ),  # one more request after an empty reply
        (CHOICE, "blue", "the sky", ScriptedJudge("A"), 0),
        (CHOICE, "blue", "so it is (B) then", Judge(), 1),
        (NUMBER | {"answer_type": "integer"}, "7", "7", ScriptedJudge(), 1),
        (NUMBER | {"answer_type": "integer"}, "7", "seven", ScriptedJudge("7"), 1),
        (NUMBER | {"answer_type": "integer"}, "7", "There are 7 of them.", Judge(), 1),
        (NUMBER | {"answer_type": "integer"}, "7", "There are 8 of them.", Judge(), 0),
        (NUMBER | {"answer_type": "float"}, "7.5", "7.50", ScriptedJudge(), 1),
        (NUMBER | {"answer_type": "list"}, "[1, 2]", "[1, 2]", ScriptedJudge("[1, 2]"), 0),
    ],
)
def test_vlmevalkit_scores(problem, answer, text, judge, credit):
    metadata = {"problem": problem | {"answer": answer, "answer_option": "B"}}
    question = Question("1", "Which?", target=answer, metadata=metadata)
    assert MathVista().score_one(Response(question, text), "vlmevalkit", judge) == credit
    if isinstance(judge, ScriptedJudge):
        assert judge.replies == []
        assert [temperature for _, temperature in judge.prompts] == [
            0.5 * number for number in range(len(judge.prompts))
        ]
