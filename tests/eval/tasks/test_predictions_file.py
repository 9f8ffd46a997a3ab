"""Prediction files of other programs, in every format, and their errors."""

import json
from pathlib import Path

import openpyxl
import pytest

from mgm.errors import MGMError
from mgm.eval.__main__ import main
from mgm.eval.harness.question import Response
from mgm.eval.registry import BENCHMARKS
from mgm.eval.tasks.predictions_file import match_predictions
from tests.eval.fixtures import MAKERS, lines, make_all


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_all(tmp_path_factory.mktemp("data"))


def questions(data: Path, name: str):
    kind = BENCHMARKS[name]
    return kind, list(kind.questions(data / kind.folder, kind.splits[0], "paper"))


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "qbench"])  # has no ids
def test_submission_files_round_trip(data, name, tmp_path):
    """Published answers files, and uploads for servers and other evaluators."""
    kind, expected_questions = questions(data, name)
    responses = [Response(one, f"answer {n}") for n, one in enumerate(expected_questions)]
    files = kind.submission(responses, tmp_path, kind.splits[0])
    read = 0
    for file in files:
        if file.suffix not in (".jsonl", ".xlsx") and file.name != "mm-vet.json":
            continue
        match = match_predictions(file, kind, expected_questions)
        assert [one.text for one in match.responses] == [one.text for one in responses]
        assert [match.unknown, match.duplicate, match.conflicting, match.missing] == [[]] * 4
        read += 1
    assert read


def test_formats(data, tmp_path):
    kind, expected_questions = questions(data, "gqa")
    book = openpyxl.Workbook()
    for row in (["index", "question", "prediction"], [20, "Which?", "red"]):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    (tmp_path / "a.tsv").write_text("index\tprediction\n20\tred\n")
    (tmp_path / "a.csv").write_text('question_id,answer\n20,"red"\n')
    (tmp_path / "a.json").write_text('{"20": "red"}')
    (tmp_path / "b.json").write_text('{"20": {"response": " red "}}')
    (tmp_path / "c.json").write_text('[{"questionId": "20", "prediction": "red"}]')
    for file in sorted(tmp_path.iterdir()):
        assert [
            one.text for one in match_predictions(file, kind, expected_questions).responses
        ] == ["red"], file


def test_question_files_are_not_predictions(data, tmp_path):
    """Those of published scripts have the question in the field of the answer."""
    kind, expected_questions = questions(data, "pope")
    file = data / "pope" / "llava_pope_test.jsonl"
    with pytest.raises(MGMError, match=r"6 of 6 predictions are the questions themselves; give"):
        match_predictions(file, kind, expected_questions)
    records = [json.loads(text) for text in file.read_text().splitlines()]
    for name in ("response", "prediction"):
        lines(tmp_path / "a.jsonl", [record | {name: "Yes"} for record in records])
        match = match_predictions(tmp_path / "a.jsonl", kind, expected_questions)
        assert [one.text for one in match.responses] == ["Yes"] * 6


def test_empty_rows_of_a_spreadsheet(data, tmp_path):
    kind, expected_questions = questions(data, "gqa")
    book = openpyxl.Workbook()
    for row in (["index", "prediction"], [20, "red"], [None, None]):
        book.active.append(row)
    book.active.cell(9, 2).value = ""
    book.active.cell(9, 2).number_format = "0.0"
    book.save(tmp_path / "a.xlsx")
    match = match_predictions(tmp_path / "a.xlsx", kind, expected_questions)
    assert (len(match.responses), match.unknown, match.unreadable) == (1, [], [])


def test_problems_are_counted_and_logged(data, tmp_path, caplog):
    kind, expected_questions = questions(data, "seed")
    file = tmp_path / "merge.jsonl"
    lines(
        file,
        [
            {"question_id": "10", "text": "A"},
            {"question_id": "10", "text": "A"},
            {"question_id": "v_11", "text": "A"},
            {"question_id": "v_11", "text": "B"},
            {"question_id": "nobody", "text": "C"},
        ],
    )
    match = match_predictions(file, kind, expected_questions)
    assert [(one.question.id, one.text) for one in match.responses] == [("10", "A")]
    assert match.unknown == ["nobody"]
    assert match.duplicate == ["10"]
    assert match.conflicting == ["v_11"]
    match.log_problems(file)
    log = caplog.text
    assert "1 predictions for unknown question ids" in log
    assert "unknown question ids, ignored ('nobody')" in log
    assert "1 questions with equal duplicate predictions, counted once ('10')" in log
    assert "1 questions with conflicting predictions, ignored ('v_11')" in log


def test_id_of_several_questions(data, tmp_path):
    """Matched by the prompt if there is one, else by order."""
    kind, expected_questions = questions(data, "textvqa")
    assert [one.metadata["question_id"] for one in expected_questions] == ["a", "a", "b"]
    records = [
        {
            "question_id": one.metadata["question_id"],
            "prompt": one.metadata["prompt"],
            "text": f"{n}",
        }
        for n, one in enumerate(expected_questions)
    ]
    file = tmp_path / "merge.jsonl"
    lines(file, [records[1], records[2], records[0]])
    assert [one.text for one in match_predictions(file, kind, expected_questions).responses] == [
        "0",
        "1",
        "2",
    ]
    lines(file, [{"question_id": one["question_id"], "text": one["text"]} for one in records])
    assert [one.text for one in match_predictions(file, kind, expected_questions).responses] == [
        "0",
        "1",
        "2",
    ]
    lines(file, [records[1], records[1] | {"text": "other"}])
    match = match_predictions(file, kind, expected_questions[:2])
    assert (match.conflicting, match.missing) == (["1"], ["0"])


QUESTION_FIELDS = {
    "gqa": ["Which colour?"],
    "textvqa": [
        "What BRAND is it?\nReference OCR token: ROLEX, 12\n"
        "Answer the question using a single word or phrase.",
        "what brand is it?\nAnswer the question using a single word or phrase.",
        "what brand is it?",
        "What brand is it?\nReference OCR token: OMEGA",
        "USER: <image>\nWhat brand is it?\nReference OCR token: 12\nGive one word. ASSISTANT:",
    ],
    "scienceqa": ["<image>\nWhich?\n(A) a\n(B) b\nAnswer with the letter.", "Which?"],
    "mme": ["Is it red? Please answer yes or no.", "Is it red? Answer yes or no!"],
    "mmbench": ["Look.\nWhich colour?\nA. red\nB. blue", "Which colour? Hint: Look. A red B blue"],
}


@pytest.mark.parametrize(
    ("name", "prompt"),
    [(name, prompt) for name, prompts in QUESTION_FIELDS.items() for prompt in prompts],
)
def test_other_prompts_of_the_same_question(data, tmp_path, name, prompt):
    kind, expected_questions = questions(data, name)
    file = tmp_path / "theirs.jsonl"
    names = kind.prediction_ids(expected_questions[0])
    lines(file, [{"question_id": min(names), "prompt": prompt, "text": "x"}])
    match = match_predictions(file, kind, expected_questions)
    assert (len(match.responses), match.mismatched) == (1, [])


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("textvqa", "What is the time?\nReference OCR token: ROLEX, 12\n"
                    "Answer the question using a single word or phrase."),
        ("textvqa", "What shop is it?"),
        ("seed", "What?\nA. a\nB. c\nAnswer with the option's letter from the given choices "
                 "directly."),
        ("gqa", "What shape?"),
    ],
)  # fmt: skip
def test_predictions_of_other_questions_are_counted(data, tmp_path, name, prompt, caplog):
    kind, expected_questions = questions(data, name)
    file = tmp_path / "theirs.jsonl"
    first, *others = ({"question_id": min(kind.prediction_ids(one)), "text": "x",
                       "prompt": one.metadata["prompt"]} for one in expected_questions)  # fmt: skip
    lines(file, [first | {"prompt": prompt}, *others])
    if not others:
        with pytest.raises(MGMError, match="do not match the questions of"):
            match_predictions(file, kind, expected_questions)
        return
    match = match_predictions(file, kind, expected_questions)
    assert len(match.responses) == len(others)
    assert match.mismatched == [first["question_id"]]
    match.log_problems(file)
    assert "1 predictions for another question than that of their id, ignored" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "a.jsonl",
            '{"question_id": "x", "text": "a"}',
            "none of its 1 predictions matches a question",
        ),
        ("a.jsonl", '{"text": "a"}', "record 1: has no column of question_id, .*, only text"),
        ("a.jsonl", '{"question_id": "20"}', "has no column of response, prediction, text, answer"),
        ("a.jsonl", '{"question_id": "20", "text": ["a"]}', "is of type list, not text"),
        ("a.jsonl", "{", "line 1: not JSON"),
        ("a.json", "[1]", "contains no predictions"),
        ("a.xlsx", "no", "cannot be read as a spreadsheet"),
        ("a.txt", "red", "unknown suffix '.txt'; give .jsonl"),
    ],
)
def test_invalid_files(data, tmp_path, name, content, says):
    kind, expected_questions = questions(data, "gqa")
    (tmp_path / name).write_text(content)
    with pytest.raises(MGMError, match=says):
        match_predictions(tmp_path / name, kind, expected_questions)
    with pytest.raises(MGMError, match="is missing"):
        match_predictions(tmp_path / "nowhere.jsonl", kind, expected_questions)


def test_command_line(data, tmp_path, capsys):
    """No model is loaded; a partial score is marked."""
    file = tmp_path / "theirs.jsonl"
    lines(file, [{"question_id": "20", "text": "Red."}, {"question_id": "21", "text": "no"}])
    words = [
        "--data-dir",
        str(data),
        "--output-dir",
        str(tmp_path / "out"),
        "--predictions",
        str(file),
    ]
    assert main([*words, "--benchmark", "gqa"]) == 0
    assert "partial, 1 of 12,578 questions: 100.0" in capsys.readouterr().out
    score = json.loads((tmp_path / "out" / "gqa" / "testdev" / "paper" / "score.json").read_text())
    assert score["credits"] == {"20": 1.0}
    with pytest.raises(MGMError, match="give the one --benchmark"):
        main([*words, "--benchmark", "gqa", "pope"])
    with pytest.raises(MGMError, match="give --model-path, or --endpoint"):
        main([*words, "--benchmark", "gqa", "--model-path", "x"])
