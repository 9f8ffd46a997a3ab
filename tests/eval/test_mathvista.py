import pytest

from mgm.eval.benchmarks.mathvista import (
    distance,
    extraction_prompt,
    is_equal,
    nearest,
    normal_extraction,
    plain_extraction,
    query,
)
from tests.golden_files import golden_json


@pytest.fixture(scope="module")
def records():
    return golden_json("eval/mathvista.json")


def test_queries(records):
    for record in records["create_one_query"]:
        if "error" in record:
            assert query(record["problem"]) == "Question: Ratio? (Unit: $)"
        else:
            assert query(record["problem"]) == record["output"]


def test_extraction(records):
    asked = records["create_test_prompt"]
    assert extraction_prompt(asked["query"], asked["response"]) == asked["output"]
    for record in records["extract_answer"]:
        said = plain_extraction(record["response"], record)
        if record["output"] == "<<LLM>>":
            assert said is None, record
        elif not record["quick_extract"]:
            assert said == record["output"], record


def test_normal_forms(records):
    for record in records["normalize_extracted_answer"]:
        own = {name: value for name, value in record.items() if name != "output"}
        assert normal_extraction(**own) == record["output"], record


def test_distances(records):
    for record in records["levenshtein"]:
        assert distance(record["a"], record["b"]) == record["d"]
    for record in records["get_most_similar"]:
        assert nearest(record["prediction"], record["choices"]) == record["output"]
    for record in records["safe_equal"]:
        assert is_equal(record["a"], record["b"]) == record["output"]
