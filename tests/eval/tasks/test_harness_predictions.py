"""Files of answers as VLMEvalKit and lmms-eval write them, of every benchmark that they have."""

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
from mgm.eval.tasks.predictions_file import read_answers
from tests.eval.fixtures import lines, make_all, png
from tests.eval.tasks.test_dataset_source import HUB, TABLES, parquet, table

Rows = list[dict[str, Any]]


def samples(questions: list[Question], texts: list[str], old: bool) -> Rows:
    """What `save_results_samples` of lmms-eval writes.

    Newer versions leave the row out, and unpack lists of one; `resps` stands there only where it
    says something else.
    """
    found = []
    for number, (question, text) in enumerate(zip(questions, texts, strict=True)):
        inside = {"question_id": "another", "score": 1.0}
        sample = {"doc_id": number, "target": str(question.answer), "input": question.text}
        if old:
            sample |= {"doc": {"question": question.facts.get("question", question.text)},
                       "resps": [[text]], "filtered_resps": [text]}  # fmt: skip
        else:
            sample |= {"filtered_resps": text, "token_counts": [None]}
        found.append(sample | {"doc_hash": "ab", "exact_match": 1.0, "perception_score": inside})
    return found


def predictions(path: Path, rows: Rows) -> Path:
    """What `dump` of VLMEvalKit writes: pandas' files of the table without its images."""
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
    place, own = (HUB if protocol == "lmms-eval" else TABLES)[name][:2]
    if protocol == "lmms-eval":
        parquet(tmp_path / "hub" / place, rows or own)
    else:
        picture = {"image": base64.b64encode(png("red")).decode()}
        table(tmp_path / place, [{"index": "5"} | one | picture for one in rows or [own]])
    kind, split = BENCHMARKS[name.split(":")[0]], name.split(":")[1]
    return kind, list(kind.questions(tmp_path, split, protocol))


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("name", HUB)
def test_samples_of_lmms_eval(tmp_path, name, old):
    kind, questions = of_harness(tmp_path, name, "lmms-eval")
    texts = [f"answer {n}" for n in range(len(questions))]
    file = tmp_path / "20260101_samples_task.jsonl"
    lines(file, samples(questions, texts, old)[::-1])
    found = read_answers(file, kind, questions)
    assert [one.text for one in found.answered] == texts
    assert [found.unknown, found.missing, found.mismatched, found.ambiguous] == [[]] * 4


@pytest.mark.parametrize("suffix", [".xlsx", ".tsv", ".json", ".csv"])
@pytest.mark.parametrize("name", TABLES)
def test_predictions_of_vlmevalkit(tmp_path, name, suffix):
    kind, questions = of_harness(tmp_path, name, "vlmevalkit")
    index: Any = 5 if suffix in (".xlsx", ".json") else "5"
    rows = [{"index": index} | TABLES[name][1] | {"prediction": "line 1\n\"B\"\t'2'"}]
    found = read_answers(predictions(tmp_path / f"m{suffix}", rows), kind, questions)
    assert [one.text for one in found.answered] == ["line 1\n\"B\"\t'2'"]
    assert found.unknown == []


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
def test_popes_answers_are_not_shifted(tmp_path, order, question):
    """Its indexes begin at 0."""
    kind, questions = of_harness(tmp_path, "pope:test", "vlmevalkit", POPE)
    file = predictions(tmp_path / "m_POPE.xlsx", predicted(*order, question=question))
    found = read_answers(file, kind, questions)
    said = {one.question.text: one.text for one in found.answered}
    assert said == {f"Is there a {OBJECTS[n]} in the image?": f"a {OBJECTS[n]}" for n in order}
    assert len(found.missing) == 4 - len(order)


def test_answers_to_other_questions_are_refused(tmp_path, caplog):
    """Where the file has the question, it has to be that of its index."""
    kind, questions = of_harness(tmp_path, "pope:test", "vlmevalkit", POPE)
    shifted = predictions(tmp_path / "m.tsv", predicted(0, 1, 2, shift=1))
    with pytest.raises(
        MGMError,
        match=r"m\.tsv: 3 of its answers are to other questions than pope has under their names: "
        r"index 1 is 'Is there a dog in the image\?' there and 'Is there a cat in the image\?' here"
        r"; its indexes are of vlmevalkit's data: give --protocol vlmevalkit",
    ):
        read_answers(shifted, kind, questions)
    rows = [*predicted(0, 1, 2), predicted(3)[0] | {"question": "Is there a house?"}]
    found = read_answers(predictions(tmp_path / "m.tsv", rows), kind, questions)
    assert found.mismatched == ["index 3"]
    assert [one.text for one in found.answered] == ["a dog", "a cat", "a tree"]
    found.tell(tmp_path / "m.tsv")
    assert "1 answers are to other questions than their names say; they are left" in caplog.text


def test_indexes_of_other_data_are_refused(tmp_path):
    """The published POPE has other questions in another order, three of each name."""
    data = make_all(tmp_path / "data")
    kind = BENCHMARKS["pope"]
    questions = list(kind.questions(data / "pope", "test", "paper"))
    advice = "its indexes are of {}'s data: give --protocol {}"
    file = predictions(tmp_path / "m.xlsx", predicted(0, 1, 2, 3, question=False))
    with pytest.raises(MGMError, match=advice.format("vlmevalkit", "vlmevalkit")):
        read_answers(file, kind, questions)
    lines(tmp_path / "m.jsonl", [{"doc_id": n, "filtered_resps": "yes"} for n in range(6)])
    with pytest.raises(MGMError, match=advice.format("lmms-eval", "lmms-eval")):
        read_answers(tmp_path / "m.jsonl", kind, questions)


def test_rows_of_lmms_eval_in_published_files(tmp_path):
    """By the ids in its metrics, or by the row where the question can be compared."""
    data = make_all(tmp_path / "data")
    kind = BENCHMARKS["mmmu"]
    questions = list(kind.questions(data / "MMMU", "val", "lmms-eval"))
    records = samples(questions, [f"answer {n}" for n in range(30)], old=False)
    for record, question in zip(records, questions, strict=True):
        record["doc_id"] = 29 - record["doc_id"]
        record["mmmu_acc"] = {"id": question.id, "subdomain": question.category}
    lines(tmp_path / "m.jsonl", records)
    found = read_answers(tmp_path / "m.jsonl", kind, questions)
    assert [one.text for one in found.answered] == [f"answer {n}" for n in range(30)]
    kind = BENCHMARKS["textvqa"]
    questions = list(kind.questions(data / "textvqa", "val", "lmms-eval"))
    texts = ["0", "1", "2"]
    lines(tmp_path / "t.jsonl", samples(questions, texts, old=False))
    found = read_answers(tmp_path / "t.jsonl", kind, questions)
    assert [one.text for one in found.answered] == texts
    moved = samples(questions[1:] + questions[:1], texts, old=False)
    lines(tmp_path / "t.jsonl", moved)
    with pytest.raises(MGMError, match="3 of its answers are to other questions"):
        read_answers(tmp_path / "t.jsonl", kind, questions)


@pytest.mark.parametrize("suffix", [".xlsx", ".json"])
def test_nulls_are_empty_answers(tmp_path, suffix, caplog):
    kind, questions = of_harness(tmp_path, "pope:test", "vlmevalkit", POPE)
    rows = predicted(0, 1, 2, 3)
    rows[1]["prediction"] = None
    rows[2]["prediction"] = None if suffix == ".xlsx" else float("nan")
    rows[3]["prediction"] = 7
    found = read_answers(predictions(tmp_path / f"m{suffix}", rows), kind, questions)
    assert [one.text for one in found.answered] == ["a dog", "", "", "7"]
    assert found.empty == ["1", "2"]
    found.tell(tmp_path)
    assert "2 questions have an empty answer, which is scored" in caplog.text
    kind, questions = of_harness(tmp_path, "vizwiz:val", "lmms-eval")
    for none in (None, [], [None], [[]], [[None]]):
        lines(tmp_path / "s.jsonl", [{"doc_id": 0, "filtered_resps": none, "target": "x"}])
        (one,) = read_answers(tmp_path / "s.jsonl", kind, questions).answered
        assert one.text == ""


def test_records_that_are_none_cost_themselves(tmp_path, caplog):
    kind, questions = of_harness(tmp_path, "pope:test", "vlmevalkit", POPE)
    good, odd = predicted(0, 1), predicted(2, 3)
    odd[0]["prediction"] = {"nested": ["a"]}
    odd[1].pop("prediction")
    odd[1].pop("answer")
    (tmp_path / "m.json").write_text(json.dumps([good[0], 7, odd[0], None, odd[1], good[1]]))
    found = read_answers(tmp_path / "m.json", kind, questions)
    assert [one.text for one in found.answered] == ["a dog", "a cat"]
    assert len(found.unreadable) == 4
    assert "record 3: the answer is of type dict, no text" in found.unreadable
    found.tell(tmp_path)
    assert "4 records cannot be read; they are left" in caplog.text
    text = "\n".join([json.dumps(good[0]), "{", "[" * 5000, "7", '{"index": "1", "pre', ""])
    (tmp_path / "m.jsonl").write_text(text)
    found = read_answers(tmp_path / "m.jsonl", kind, questions)
    assert [one.text for one in found.answered] == ["a dog"]
    assert len(found.unreadable) == 4


def test_a_whole_number_that_a_table_has_made_a_fraction(tmp_path):
    kind, questions = of_harness(tmp_path, "pope:test", "vlmevalkit", POPE)
    rows = [one | {"index": float(one["index"])} for one in predicted(0, 1)]
    found = read_answers(predictions(tmp_path / "m.xlsx", rows), kind, questions)
    assert [one.text for one in found.answered] == ["a dog", "a cat"]


def test_one_name_of_several_questions_where_one_is_missing(tmp_path, caplog):
    """Nothing tells which: the order would shift the others."""
    data = make_all(tmp_path / "data")
    kind = BENCHMARKS["textvqa"]
    questions = list(kind.questions(data / "textvqa", "val", "paper"))
    lines(
        tmp_path / "m.jsonl", [{"question_id": "a", "text": "1"}, {"question_id": "b", "text": "2"}]
    )
    found = read_answers(tmp_path / "m.jsonl", kind, questions)
    assert (found.ambiguous, [one.text for one in found.answered]) == (["a"], ["2"])
    found.tell(tmp_path)
    assert "1 answers whose names several questions have; they are left ('a')" in caplog.text


def test_files_that_are_no_tables(tmp_path):
    kind, questions = of_harness(tmp_path, "pope:test", "vlmevalkit", POPE)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"0": "yes"}))
    with pytest.raises(MGMError, match="is a pickle, which can run any program"):
        read_answers(tmp_path / "m.pkl", kind, questions)
    for content in (b"index\tprediction\n0\t\xff\xfe", b"PK\x03\x04", b"a\tb\n1\t2\t3\n", b""):
        (tmp_path / "m.tsv").write_bytes(content)
        with pytest.raises(MGMError, match=r"m\.tsv"):
            read_answers(tmp_path / "m.tsv", kind, questions)
    for suffix in (".xlsx", ".json", ".jsonl"):
        for content in (b"", b"PK\x03\x04", b"\xff\xfe\x00", b"[" * 100_000, b"null"):
            (tmp_path / f"m{suffix}").write_bytes(content)
            with pytest.raises(MGMError, match="m" + suffix):
                read_answers(tmp_path / f"m{suffix}", kind, questions)
