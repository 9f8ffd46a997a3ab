"""Prediction files of VLMEvalKit and lmms-eval, for all their benchmarks."""

import base64
import csv
import json
import pickle
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from mgm.errors import MGMError
from mgm.eval.harness.question import Question
from mgm.eval.registry import BENCHMARKS
from mgm.eval.tasks.predictions_file import match_predictions
from tests.eval.fixtures import lines, make_all, png
from tests.eval.tasks.test_dataset_source import HUB, TABLES, parquet, table

Rows = list[dict[str, Any]]


def samples(questions: list[Question], texts: list[str], old: bool) -> Rows:
    """Lines of `save_results_samples` of lmms-eval.

    Newer versions omit the row and unwrap lists of one; `resps` is there only if it differs.
    """
    lines = []
    for number, (question, text) in enumerate(zip(questions, texts, strict=True)):
        inside = {"question_id": "another", "score": 1.0}
        sample = {"doc_id": number, "target": str(question.target), "input": question.text}
        if old:
            sample |= {"doc": {"question": question.metadata.get("question", question.text)},
                       "resps": [[text]], "filtered_resps": [text]}  # fmt: skip
        else:
            sample |= {"filtered_resps": text, "token_counts": [None]}
        lines.append(sample | {"doc_hash": "ab", "exact_match": 1.0, "perception_score": inside})
    return lines


def predictions(path: Path, rows: Rows) -> Path:
    """A file of VLMEvalKit's `dump`: the table without images, by pandas."""
    columns = list(rows[0])
    if path.suffix == ".xlsx":
        book = openpyxl.Workbook()
        for row in (columns, *([one[name] for name in columns] for one in rows)):
            book.active.append(row)
        book.save(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=4))  # NaN stands for null
    else:
        with path.open("w", newline="") as file:
            between = "\t" if path.suffix == ".tsv" else ","
            writer = csv.DictWriter(file, columns, delimiter=between, quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(rows)
    return path


def of_harness(tmp_path: Path, name: str, protocol: str, rows: Rows | None = None):
    """A benchmark's questions from the data that the harness reads."""
    folder, own = (HUB if protocol == "lmms-eval" else TABLES)[name][:2]
    if protocol == "lmms-eval":
        parquet(tmp_path / "hub" / folder, rows or own)
    else:
        picture = {"image": base64.b64encode(png("red")).decode()}
        table(tmp_path / folder, [{"index": "5"} | one | picture for one in rows or [own]])
    kind, split = BENCHMARKS[name.split(":")[0]], name.split(":")[1]
    return kind, list(kind.questions(tmp_path, split, protocol))


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("name", HUB)
def test_lmms_eval_samples(tmp_path, name, old):
    kind, questions = of_harness(tmp_path, name, "lmms-eval")
    texts = [f"answer {n}" for n in range(len(questions))]
    file = tmp_path / "20260101_samples_task.jsonl"
    lines(file, samples(questions, texts, old)[::-1])
    match = match_predictions(file, kind, questions)
    assert [one.text for one in match.responses] == texts
    assert [match.unknown, match.missing, match.mismatched, match.ambiguous] == [[]] * 4


@pytest.mark.parametrize("suffix", [".xlsx", ".tsv", ".json", ".csv"])
@pytest.mark.parametrize("name", TABLES)
def test_vlmevalkit_predictions(tmp_path, name, suffix):
    kind, questions = of_harness(tmp_path, name, "vlmevalkit")
    index: Any = 5 if suffix in (".xlsx", ".json") else "5"
    rows = [{"index": index} | TABLES[name][1] | {"prediction": "line 1\n\"B\"\t'2'"}]
    match = match_predictions(predictions(tmp_path / f"m{suffix}", rows), kind, questions)
    assert [one.text for one in match.responses] == ["line 1\n\"B\"\t'2'"]
    assert match.unknown == []


OBJECTS = ("dog", "cat", "tree", "car")
POPE: Rows = [
    {"index": str(n), "question": f"Is there a {name} in the image?", "category": "random",
     "answer": "Yes"} for n, name in enumerate(OBJECTS)
]  # fmt: skip


def predicted(*order: int, question: bool = True, shift: int = 0) -> Rows:
    rows = [dict(POPE[n]) | {"index": n + shift, "prediction": f"a {OBJECTS[n]}"} for n in order]
    return rows if question else [{k: v for k, v in r.items() if k != "question"} for r in rows]


@pytest.mark.parametrize("question", [True, False])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0), (2,)])
def test_pope_indexes_start_at_0(tmp_path, order, question):
    """So that predictions must not be shifted."""
    kind, questions = of_harness(tmp_path, "pope:test", "vlmevalkit", POPE)
    file = predictions(tmp_path / "m_POPE.xlsx", predicted(*order, question=question))
    match = match_predictions(file, kind, questions)
    texts = {one.question.text: one.text for one in match.responses}
    assert texts == {f"Is there a {OBJECTS[n]} in the image?": f"a {OBJECTS[n]}" for n in order}
    assert len(match.missing) == 4 - len(order)


def test_predictions_of_other_questions(tmp_path, caplog):
    """A question in the file must be that of its index."""
    kind, questions = of_harness(tmp_path, "pope:test", "vlmevalkit", POPE)
    shifted = predictions(tmp_path / "m.tsv", predicted(0, 1, 2, shift=1))
    with pytest.raises(
        MGMError,
        match=r"m\.tsv: 3 predictions do not match the questions of pope with their ids: "
        r"index 1 is 'Is there a dog in the image\?' there and 'Is there a cat in the image\?' here"
        r"; its indices belong to the data of vlmevalkit: give --protocol vlmevalkit",
    ):
        match_predictions(shifted, kind, questions)
    rows = [*predicted(0, 1, 2), predicted(3)[0] | {"question": "Is there a house?"}]
    match = match_predictions(predictions(tmp_path / "m.tsv", rows), kind, questions)
    assert match.mismatched == ["index 3"]
    assert [one.text for one in match.responses] == ["a dog", "a cat", "a tree"]
    match.log_problems(tmp_path / "m.tsv")
    assert "1 predictions for another question than that of their id, ignored" in caplog.text


def test_indexes_of_other_data(tmp_path):
    """The published POPE has other questions in another order, and ids three times."""
    data = make_all(tmp_path / "data")
    kind = BENCHMARKS["pope"]
    questions = list(kind.questions(data / "pope", "test", "paper"))
    advice = "its indices belong to the data of {}: give --protocol {}"
    file = predictions(tmp_path / "m.xlsx", predicted(0, 1, 2, 3, question=False))
    with pytest.raises(MGMError, match=advice.format("vlmevalkit", "vlmevalkit")):
        match_predictions(file, kind, questions)
    lines(tmp_path / "m.jsonl", [{"doc_id": n, "filtered_resps": "yes"} for n in range(6)])
    with pytest.raises(MGMError, match=advice.format("lmms-eval", "lmms-eval")):
        match_predictions(tmp_path / "m.jsonl", kind, questions)


def test_lmms_eval_samples_for_published_files(tmp_path):
    """Matched by the ids in their metrics, or by row if the question can be compared."""
    data = make_all(tmp_path / "data")
    kind = BENCHMARKS["mmmu"]
    questions = list(kind.questions(data / "MMMU", "val", "lmms-eval"))
    records = samples(questions, [f"answer {n}" for n in range(30)], old=False)
    for record, question in zip(records, questions, strict=True):
        record["doc_id"] = 29 - record["doc_id"]
        record["mmmu_acc"] = {"id": question.id, "subdomain": question.category}
    lines(tmp_path / "m.jsonl", records)
    match = match_predictions(tmp_path / "m.jsonl", kind, questions)
    assert [one.text for one in match.responses] == [f"answer {n}" for n in range(30)]
    kind = BENCHMARKS["textvqa"]
    questions = list(kind.questions(data / "textvqa", "val", "lmms-eval"))
    texts = ["0", "1", "2"]
    lines(tmp_path / "t.jsonl", samples(questions, texts, old=False))
    match = match_predictions(tmp_path / "t.jsonl", kind, questions)
    assert [one.text for one in match.responses] == texts
    moved = samples(questions[1:] + questions[:1], texts, old=False)
    lines(tmp_path / "t.jsonl", moved)
    with pytest.raises(MGMError, match="3 predictions do not match the questions"):
        match_predictions(tmp_path / "t.jsonl", kind, questions)


@pytest.mark.parametrize("suffix", [".xlsx", ".json"])
def test_null_is_an_empty_response(tmp_path, suffix, caplog):
    kind, questions = of_harness(tmp_path, "pope:test", "vlmevalkit", POPE)
    rows = predicted(0, 1, 2, 3)
    rows[1]["prediction"] = None
    rows[2]["prediction"] = None if suffix == ".xlsx" else float("nan")
    rows[3]["prediction"] = 7
    match = match_predictions(predictions(tmp_path / f"m{suffix}", rows), kind, questions)
    assert [one.text for one in match.responses] == ["a dog", "", "", "7"]
    assert match.empty == ["1", "2"]
    match.log_problems(tmp_path)
    assert "2 questions with an empty prediction, scored" in caplog.text
    kind, questions = of_harness(tmp_path, "vizwiz:val", "lmms-eval")
    for none in (None, [], [None], [[]], [[None]]):
        lines(tmp_path / "s.jsonl", [{"doc_id": 0, "filtered_resps": none, "target": "x"}])
        (one,) = match_predictions(tmp_path / "s.jsonl", kind, questions).responses
        assert one.text == ""


def test_invalid_records_are_skipped(tmp_path, caplog):
    kind, questions = of_harness(tmp_path, "pope:test", "vlmevalkit", POPE)
    good, odd = predicted(0, 1), predicted(2, 3)
    odd[0]["prediction"] = {"nested": ["a"]}
    odd[1].pop("prediction")
    odd[1].pop("answer")
    (tmp_path / "m.json").write_text(json.dumps([good[0], 7, odd[0], None, odd[1], good[1]]))
    match = match_predictions(tmp_path / "m.json", kind, questions)
    assert [one.text for one in match.responses] == ["a dog", "a cat"]
    assert len(match.unreadable) == 4
    assert "record 3: the response is of type dict, not text" in match.unreadable
    match.log_problems(tmp_path)
    assert "4 unreadable records, ignored" in caplog.text
    text = "\n".join([json.dumps(good[0]), "{", "[" * 5000, "7", '{"index": "1", "pre', ""])
    (tmp_path / "m.jsonl").write_text(text)
    match = match_predictions(tmp_path / "m.jsonl", kind, questions)
    assert [one.text for one in match.responses] == ["a dog"]
    assert len(match.unreadable) == 4


def test_integers_saved_as_floats(tmp_path):
    kind, questions = of_harness(tmp_path, "pope:test", "vlmevalkit", POPE)
    rows = [one | {"index": float(one["index"])} for one in predicted(0, 1)]
    match = match_predictions(predictions(tmp_path / "m.xlsx", rows), kind, questions)
    assert [one.text for one in match.responses] == ["a dog", "a cat"]


def test_duplicate_id_with_a_missing_prediction(tmp_path, caplog):
    """It is ambiguous, since matching by order could shift the others."""
    data = make_all(tmp_path / "data")
    kind = BENCHMARKS["textvqa"]
    questions = list(kind.questions(data / "textvqa", "val", "paper"))
    lines(
        tmp_path / "m.jsonl", [{"question_id": "a", "text": "1"}, {"question_id": "b", "text": "2"}]
    )
    match = match_predictions(tmp_path / "m.jsonl", kind, questions)
    assert (match.ambiguous, [one.text for one in match.responses]) == (["a"], ["2"])
    match.log_problems(tmp_path)
    assert "1 predictions with ids of several questions, ignored ('a')" in caplog.text


def test_invalid_tables(tmp_path):
    kind, questions = of_harness(tmp_path, "pope:test", "vlmevalkit", POPE)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"0": "yes"}))
    with pytest.raises(MGMError, match="reading a pickle can run any code"):
        match_predictions(tmp_path / "m.pkl", kind, questions)
    for content in (b"index\tprediction\n0\t\xff\xfe", b"PK\x03\x04", b"a\tb\n1\t2\t3\n", b""):
        (tmp_path / "m.tsv").write_bytes(content)
        with pytest.raises(MGMError, match=r"m\.tsv"):
            match_predictions(tmp_path / "m.tsv", kind, questions)
    for suffix in (".xlsx", ".json", ".jsonl"):
        for content in (b"", b"PK\x03\x04", b"\xff\xfe\x00", b"[" * 100_000, b"null"):
            (tmp_path / f"m{suffix}").write_bytes(content)
            with pytest.raises(MGMError, match="m" + suffix):
                match_predictions(tmp_path / f"m{suffix}", kind, questions)


def numbered(name: str) -> Rows:
    """Three rows of a VLMEvalKit table, with indexes from 0."""
    row = TABLES[name][1]
    return [row | {"index": str(n), "question": f"{row['question']} {n}"} for n in range(3)]


@pytest.mark.parametrize("form", ["object", "index", "prediction"])
@pytest.mark.parametrize("name", TABLES)
def test_bare_index_needs_the_question(tmp_path, name, form):
    """Without the question a shift would go unnoticed."""
    kind, questions = of_harness(tmp_path, name, "vlmevalkit", numbered(name))
    texts = [f"answer {one.source_index}" for one in questions]
    assert texts == ["answer index 0", "answer index 1", "answer index 2"]
    for field in ("response", "text", "answer", "prediction"):
        records = [{"index": n, field: text} for n, text in enumerate(texts)]
        if form == "object":
            content = {str(n): text for n, text in enumerate(texts)}
            (tmp_path / "a.json").write_text(json.dumps(content))
        elif form == "index":
            lines(tmp_path / "a.json", records)
            (tmp_path / "a.json").rename(tmp_path / "a.jsonl")
        else:
            predictions(tmp_path / "a.tsv", records)
        (file,) = tmp_path.glob("a.*")
        assert [one.text for one in match_predictions(file, kind, questions).responses] == texts
        file.unlink()


@pytest.mark.parametrize("name", HUB)
def test_ids_are_not_row_numbers_from_1(tmp_path, name):
    folder, own, _ = HUB[name]
    parquet(tmp_path / "hub" / folder, own)
    kind, split = BENCHMARKS[name.split(":")[0]], name.split(":")[1]
    for number, question in enumerate(kind.questions(tmp_path, split, "lmms-eval")):
        ids = {str(value) for value in own[number].values() if isinstance(value, str | int)}
        for one in kind.prediction_ids(question):
            assert one == str(number) or any(one in i or i in one for i in ids)


@pytest.mark.parametrize("name", HUB)
def test_lmms_eval_samples_of_other_prompts(tmp_path, name):
    """Task variants and model-specific prompts add text to the question."""
    kind, questions = of_harness(tmp_path, name, "lmms-eval")
    records = samples(questions, ["yes"] * len(questions), old=False)
    rows = HUB[name][1]
    for record, row in zip(records, rows, strict=True):
        question = row.get("question") or row.get("Question")
        record["input"] = f"<image>{question.strip().lower()}\nReply briefly, in English."
    lines(tmp_path / "s.jsonl", records)
    match = match_predictions(tmp_path / "s.jsonl", kind, questions, "lmms-eval")
    assert len(match.responses) == len(questions)
    for record in records:
        record["input"] = "Where on earth is that?"
    lines(tmp_path / "s.jsonl", records)
    with pytest.raises(MGMError, match="do not match the questions") as caught:
        match_predictions(tmp_path / "s.jsonl", kind, questions, "lmms-eval")
    assert "--protocol" not in str(caught.value)


@pytest.mark.parametrize("name", TABLES)
def test_targets_are_not_predictions(tmp_path, name):
    """A data table, and a file without its column of predictions."""
    kind, questions = of_harness(tmp_path, name, "vlmevalkit", numbered(name))
    with pytest.raises(MGMError, match="record 1: contains targets, not predictions"):
        match_predictions(tmp_path / TABLES[name][0], kind, questions)
    rows = [one | {"category": "x"} for one in numbered(name)]
    for suffix in (".xlsx", ".json", ".csv"):
        file = predictions(tmp_path / f"m{suffix}", rows)
        with pytest.raises(MGMError, match="contains targets, not predictions"):
            match_predictions(file, kind, questions)


def test_answer_column_beside_the_question(tmp_path):
    kind, questions = of_harness(tmp_path, "pope:test", "vlmevalkit", POPE)
    records = [{"question_id": n, "question": POPE[n]["question"], "answer": f"a {name}"}
               for n, name in enumerate(OBJECTS)]  # fmt: skip
    lines(tmp_path / "m.jsonl", records)
    match = match_predictions(tmp_path / "m.jsonl", kind, questions)
    assert [one.text for one in match.responses] == [f"a {name}" for name in OBJECTS]


@pytest.mark.parametrize(
    "likelihoods",
    [
        [[-1.2, True], [-3.0, False]], [[[-1.2, True]], [[-3.0, False]]], [-1.2, True], [[-1.2, 1]],
        [["-38.2", "False"], ["-1.0", "True"]], [-1.2, -3.0], -1.2,
    ],
)  # fmt: skip
def test_log_likelihoods(tmp_path, likelihoods):
    kind, questions = of_harness(tmp_path, "vizwiz:val", "lmms-eval")
    lines(tmp_path / "s.jsonl", [{"doc_id": 0, "filtered_resps": likelihoods, "target": "x"}])
    with pytest.raises(MGMError, match="record 1: contains log-likelihoods, not text"):
        match_predictions(tmp_path / "s.jsonl", kind, questions)


def test_other_files_of_the_harnesses(tmp_path):
    kind, questions = of_harness(tmp_path, "pope:test", "lmms-eval")
    texts = [f"answer {n}" for n in range(len(questions))]
    logs = {"args": {}, "model_configs": {}, "logs": samples(questions, texts, old=True)}
    (tmp_path / "pope.json").write_text(json.dumps(logs))
    match = match_predictions(tmp_path / "pope.json", kind, questions)
    assert [one.text for one in match.responses] == texts
    results = {"results": {"pope": {"pope_f1_score,none": 0.8}}, "configs": {"pope": {}}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(
        MGMError, match="contains results of lmms-eval, not predictions; give the samples"
    ):
        match_predictions(tmp_path / "results.json", kind, questions)
