import pytest

from mgm.eval.benchmarks.mmmu import SUBJECTS, mmmu_prompt
from mgm.eval.metrics.mmmu_open import is_open_right, normalize_open, numbers, parse_open
from mgm.eval.metrics.multiple_choice import parse_choice
from tests.golden_files import golden_json


@pytest.fixture(scope="module")
def records():
    return golden_json("eval/mmmu.json")


def test_choices(records):
    for record in records["parse_multi_choice_response"]:
        names = records["options"][record["options"]]["index2ans"]
        letter = parse_choice(record["response"], names)
        if record["random_choice"]:
            assert letter is None, record
        else:
            assert letter == record["output_seed42"], record


def test_open_questions(records):
    for record in records["normalize_str"]:
        assert [str(one) for one in normalize_open(record["input"])] == [
            str(o) for o in record["output"]
        ]
    for record in records["extract_numbers"]:
        assert numbers(record["input"]) == record["output"]
    for record in records["parse_open_response"]:
        candidates = sorted(map(str, parse_open(record["response"])))
        assert candidates == sorted(map(str, record["output_sorted"])), record
    for record in records["eval_open"]:
        assert is_open_right(record["gold"], parse_open(record["response"])) == record["output"]


def test_prompts_and_subjects(records):
    for record in records["construct_prompt"]:
        sample = record["sample"]
        choices = eval(sample["options"])
        expected = record["output"]["final_input_prompt"]
        assert mmmu_prompt(sample["question"], choices, sample["question_type"]) == expected
    assert set(SUBJECTS) == set(records["CAT_SHORT2LONG"].values())
