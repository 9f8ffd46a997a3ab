"""Published scorers: from their files to their printed results."""

import json
import re

import pytest

from mgm.errors import MGMError
from mgm.eval.benchmarks import mmmu, textvqa
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response
from mgm.eval.metrics import mathvista_extraction as extraction
from mgm.eval.registry import BENCHMARKS
from mgm.eval.report.scoring import score_responses
from mgm.eval.tasks.predictions_file import match_predictions
from tests.eval.fixtures import dump, lines, picture
from tests.golden_files import golden_json

SUFFIX = "\nAnswer the question using a single word or phrase."


def test_textvqa(tmp_path):
    record = golden_json("eval/textvqa.json")["eval_single"]
    folder = tmp_path / "textvqa"
    dump(folder / "TextVQA_0.5.1_val.json", record["annotation"])
    picture(folder / "train_images" / "x.jpg", "red")
    records = [
        {"question_id": one["image_id"], "image": "x.jpg", "text": one["question"] + SUFFIX}
        for one in record["annotation"]["data"]
    ]
    lines(folder / "llava_textvqa_val_v051_ocr.jsonl", records)
    lines(tmp_path / "merge.jsonl", record["results"])
    kind = BENCHMARKS["textvqa"]
    questions = list(kind.questions(folder, "val", "paper"))
    match = match_predictions(tmp_path / "merge.jsonl", kind, questions)
    score = score_responses(kind, "val", "paper", questions, match.responses, Judge())
    assert f"Samples: {score.questions}\nAccuracy: {score.value:.2f}%" in record["stdout"]


def test_textvqa_questions_in_prompts():
    for record in golden_json("eval/textvqa.json")["prompt_processor"]:
        if "error" in record:
            with pytest.raises(MGMError, match="no question in the prompt"):
                textvqa.question_of_prompt(record["prompt"])
        else:
            assert textvqa.question_of_prompt(record["prompt"]).lower() == record["output"]


def test_pope(tmp_path):
    record = golden_json("eval/pope.json")["script"]
    folder = tmp_path / "pope"
    picture(folder / "val2014" / "x.jpg", "red")
    for name, content in record["annotations"].items():
        (folder / "coco").mkdir(exist_ok=True)
        (folder / "coco" / name).write_text(content)
    more = {"image": "x.jpg", "text": "Is it?"}
    lines(folder / "llava_pope_test.jsonl", [one | more for one in record["questions"]])
    lines(tmp_path / "answers.jsonl", record["answers"])
    kind = BENCHMARKS["pope"]
    questions = list(kind.questions(folder, "test", "paper"))
    match = match_predictions(tmp_path / "answers.jsonl", kind, questions)
    parts = score_responses(kind, "test", "paper", questions, match.responses, Judge()).parts
    printed = dict(
        re.findall(r"Category: (\w+), # samples: 10\n(?:.*\n){7}(.*)\n", record["stdout"])
    )
    assert set(printed) == {"adversarial", "popular", "random"}
    for name, line in printed.items():
        f1, accuracy, _, _, yes = map(float, line.split(", "))
        assert parts[f"{name}: F1"][0] == pytest.approx(100 * f1, abs=0.05)
        assert parts[f"{name}: accuracy"][0] == pytest.approx(100 * accuracy, abs=0.05)
        assert parts[f"{name}: yes"][0] == pytest.approx(100 * yes, abs=0.05)


def test_mathvista():
    record = golden_json("eval/mathvista.json")["calculate_score_script"]
    right = 0
    for name, problem in record["input"].items():
        extracted = extraction.normalize_extraction(
            *(problem[field] for field in ("extraction", "choices", "question_type")),
            problem["answer_type"],
            problem["precision"],
        )
        equal = extraction.values_equal(extracted, problem["answer"])
        assert (extracted, equal) == (
            record["output"][name]["prediction"],
            record["output"][name]["true_false"],
        )
        right += equal
    assert right == record["scores"]["average"]["correct"]


def question(record: dict) -> Question:
    choices = list(record.get("index2ans", {"A": "a", "B": "b", "C": "c", "D": "d"}).values())
    kind = "multiple-choice" if record["question_type"] == "multiple-choice" else "open"
    subject = record["id"].split("_")[1]
    metadata = {"type": kind, "choices": choices}
    return Question(
        id=record["id"], text="", target=record["answer"], category=subject, metadata=metadata
    )


def test_mmmu_parses_and_judges():
    record = golden_json("eval/mmmu.json")["scripts"]["main_parse_and_eval.py"]
    credits = []
    for given, expected in zip(record["input"], record["parsed_output"], strict=True):
        response = Response(question(given), given["response"])
        if given["question_type"] == "multiple-choice":
            assert mmmu.parse_choice(given["response"], given["index2ans"]) in (
                expected["parsed_pred"],
                None,  # with random letters, which differ
            )
        else:
            candidates = sorted(mmmu.parse_open(given["response"]), key=str)
            assert candidates == sorted(expected["parsed_pred"], key=str)
        credits.append(BENCHMARKS["mmmu"].score_one(response, "paper", Judge()))
        if mmmu.parse_choice(given["response"], given["index2ans"]) or given["answer"] == "42":
            assert credits[-1] == (expected["judge"] == "Correct")
    assert len(credits) == record["result"]["num_example"]


def test_mmmu_of_disciplines_and_subjects():
    record = golden_json("eval/mmmu.json")["scripts"]["main_eval_only.py"]
    questions, credits = [], []
    for name, text in record["output_dict"].items():
        truth = record["answer_dict"][name]
        one = question(
            {"id": name, "question_type": truth["question_type"], "answer": truth["ground_truth"]}
        )
        questions.append(one)
        credits.append(BENCHMARKS["mmmu"].score_one(Response(one, text), "paper", Judge()))
    parts = BENCHMARKS["mmmu"].parts(questions, credits)
    printed = json.loads(record["stdout"].splitlines()[-1].replace("'", '"'))
    for name, (value, count) in parts.items():
        score = printed.get(name) or printed[f"Overall-{name}"]
        assert (count, round(value / 100, 3)) == (score["num"], score["acc"])
    total = BENCHMARKS["mmmu"].combine(questions, credits)
    assert round(total / 100, 3) == printed["Overall"]["acc"]


def test_mmmu_upload():
    record = golden_json("eval/mmmu.json")["scripts"]
    expected = record["convert_to_test.py"]["output"]
    for given in record["eval.py"]["input"]:
        meant = given["parsed_pred"]
        text = meant if isinstance(meant, str) else str(meant[0])
        upload = mmmu.server_answers([Response(question(given), text)])
        assert upload == {given["id"]: expected[given["id"]]}
    disciplines = golden_json("eval/mmmu.json")["DOMAIN_CAT2SUB_CAT"]
    assert {name: set(own) for name, own in mmmu.DISCIPLINES.items()} == {
        name: set(own) for name, own in disciplines.items()
    }
