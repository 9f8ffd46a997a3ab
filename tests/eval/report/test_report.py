import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from PIL import Image

import mgm.eval
from mgm.eval.benchmarks.textvqa import TextVQA
from mgm.eval.harness.question import Question, Response, SkippedQuestion
from mgm.eval.report.examples import (
    MAX_TEXT,
    SAMPLES_FILE,
    breakdowns,
    choose_examples,
    thumbnail,
    truncate,
    write_samples,
)
from mgm.eval.report.html_page import bar
from mgm.eval.report.markdown_tables import format_notes, format_score, scores_table
from mgm.eval.report.paper_results import compare_with_paper, paper_table
from mgm.eval.report.report import write_report
from mgm.eval.report.run_info import questions_digest, run_info
from mgm.eval.report.score import Score, save_score

SCHEMA = Path(mgm.eval.__file__).parent / "texts" / "results.schema.json"


@pytest.fixture
def responses(tmp_path):
    result = []
    for number, side in enumerate((100, 400, 800, 2000)):
        file = tmp_path / f"{number}.png"
        Image.new("RGB", (side, side // 2), "red").save(file)
        question = Question(
            str(number), "<b>what?</b>", (file,), target="red", category="ab"[number % 2],
            metadata={"text_size": 4 + 3 * number},
        )  # fmt: skip
        result.append(Response(question, "word " * (3 * number + 1), "stop", 700, 5, 0.5))
    return result


def score_of(responses, **changes) -> Score:
    metadata = {
        "benchmark": "textvqa:val", "title": "TextVQA", "metric": "accuracy", "protocol": "paper",
        "judge": "", "value": 64.0, "low": 62.0, "high": 66.0, "questions": 5000, "expected": 5000,
        "parts": {"a": (50.0, 2)}, "counts": {"cut": 1, "empty": 0, "unparsed": 2},
        "credits": {one.question.id: float(n % 2) for n, one in enumerate(responses)},
        "groups": {one.question.id: one.question.id for one in responses},
        "run": info_of(responses),
    }  # fmt: skip
    return Score(**metadata | changes)


def info_of(responses, **model):
    files = [{"path": "x", "digest": "0"}]
    data = {"files": files, "revision": None, "digest": "0", "questions": 4}
    return run_info({"name": "m", "digest": "d"} | model, {"limit": None}, data, responses)


def written(folder, score, responses):
    """Write a score's output folder."""
    output = folder / score.benchmark.replace(":", "/") / score.protocol
    output.mkdir(parents=True, exist_ok=True)
    save_score(score, output / "score.json")
    write_samples(output, TextVQA(), score, responses)
    return output


def samples_of(output):
    return [json.loads(line) for line in (output / SAMPLES_FILE).read_text().splitlines()]


def test_credit_by_response_length_and_image_size(responses, tmp_path):
    score = score_of(responses)
    tables = breakdowns(score, samples_of(written(tmp_path, score, responses)))
    rows = {
        title: {row["name"]: (row["value"], row["questions"]) for row in rows}
        for title, rows in tables.items()
    }
    assert rows == {
        "length of the response": {
            "below 2 words": (0, 1), "2 to 4 words": (100, 1), "5 to 19 words": (50, 2),
        },
        "size of the image": {
            "below 336 pixels": (0, 1), "336 to 767 pixels": (100, 1),
            "768 to 1535 pixels": (0, 1), "from 1536 pixels": (100, 1),
        },
        "size of the text": {
            "below 6 pixels": (0, 1), "6 to 7 pixels": (100, 1), "8 to 11 pixels": (0, 1),
            "12 to 19 pixels": (100, 1),
        },
    }  # fmt: skip
    assert all(row["low"] is None for rows in tables.values() for row in rows)  # too few images


def test_partial_scores_are_marked(responses):
    assert format_score(score_of(responses)) == "64.0 (95 %: 62.0 to 66.0)"
    some = score_of(responses, questions=4, low=None, high=None)
    assert format_score(some) == (
        "partial, 4 of 5,000 questions: 64.0 (too few images for an interval)"
    )
    assert "65.2" not in scores_table([some], "MGM-7B")
    assert format_score(score_of(responses, value=None)) == "to be submitted"


def test_mme_perception_and_cognition(responses):
    parts = {"perception": (1523.4, 2114), "cognition": (316.1, 260), "OCR": (100.0, 40)}
    score = score_of(
        responses, benchmark="mme:test", title="MME", value=1839.5, low=1800.0, high=1880.0,
        parts=parts, headline=("perception", "cognition"), highest=2800.0,
    )  # fmt: skip
    assert format_score(score) == "1523.4 / 316.1 (sum 1839.5; 95 %: 1800.0 to 1880.0)"
    assert "1839.0 (+0.5, agrees)" in scores_table([score], "MGM-7B")
    rows = paper_table("MGM-7B", {"mme:test": "1523.4 / 316.1"})
    assert [row[3] for row in rows] == ["MME", "1523/316", "1523.4 / 316.1"]
    assert paper_table("MGM-7B", {"gqa:testdev": "60.0"}) == []
    assert len(paper_table("another", {"mme:test": "1"})) == 2


def test_counts_beside_the_score(responses):
    skipped = (SkippedQuestion("7", "its image is broken"),)
    score = score_of(responses, skipped=skipped)
    assert format_notes(score) == "1 cut by the token limit, 2 unparsed, 1 skipped"
    assert format_notes(score) in scores_table([score], "m")


def test_comparison_with_the_paper(responses):
    assert "65.2 (+0.8, agrees)" in scores_table([score_of(responses, value=66.0)], "MGM-7B")
    assert "70.1 (-6.1, differs)" in scores_table([score_of(responses)], "MGM-34B")
    assert compare_with_paper("MGM-7B", "gqa:testdev", 60, 59, 61) is None
    assert compare_with_paper("another", "textvqa:val", 60, 59, 61) is None
    assert compare_with_paper("MGM-7B", "textvqa:val", 60, None, None).agrees is None
    rows = compare_with_paper("MGM-7B-HD", "mme:test", 1800, 1700, 1900)
    assert (rows.published, rows.agrees) == (1865, True)


def test_report_accumulates_runs(responses, tmp_path):
    """A second benchmark is added; the same one is replaced."""
    written(tmp_path, score_of(responses), responses)
    assert [one.benchmark for one in write_report(tmp_path, "m")] == ["textvqa:val"]
    written(tmp_path, score_of(responses, benchmark="gqa:testdev", title="GQA"), responses)
    written(tmp_path, score_of(responses, value=65.0, protocol="lmms-eval"), responses)
    written(tmp_path, score_of(responses, value=65.0), responses)
    scores = write_report(tmp_path, "m")
    assert [(one.benchmark, one.protocol, one.value) for one in scores] == [
        ("textvqa:val", "lmms-eval", 65), ("textvqa:val", "paper", 65),
        ("gqa:testdev", "paper", 64),
    ]  # fmt: skip
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert all(name in text for name in ("TextVQA", "textvqa:val", "GQA", "gqa:testdev"))
    assert (tmp_path / "report.html").read_text().count("<section class=examples>") == 3
    results = json.loads((tmp_path / "results.json").read_text())
    assert [one["benchmark"] for one in results["results"]] == [one.benchmark for one in scores]


def test_report_has_one_model(responses, tmp_path, caplog):
    for benchmark, date, model in (
        ("gqa:testdev", "2026-01-01", {}),
        ("vqav2:val", "2026-01-02", {"digest": "trained on"}),
        ("textvqa:val", "2026-01-03", {}),
    ):
        info = info_of(responses, **model) | {"date": date}
        written(tmp_path, score_of(responses, benchmark=benchmark, run=info), responses)
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c" / "score.json").write_text("{")
    assert [one.benchmark for one in write_report(tmp_path, "m")] == ["textvqa:val", "gqa:testdev"]
    assert "other weights" in caplog.text
    assert "score.json" in caplog.text


def test_results_follow_their_schema(responses, tmp_path):
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    skipped = (SkippedQuestion("7", "its image is broken"),)
    parts = {"a": (50.0, 2), "b": (60.0, 20)}
    score = score_of(responses, skipped=skipped, parts=parts, intervals={"b": (50.0, 70.0)})
    written(tmp_path, score, responses)
    written(tmp_path, score_of(responses, benchmark="x:y", value=None, low=None, high=None), [])
    written(tmp_path, score_of(responses, benchmark="old:y", run={}), [])
    write_report(tmp_path, "MGM-7B")
    results = json.loads((tmp_path / "results.json").read_text())
    Draft202012Validator(schema).validate(results)
    (first,) = (one for one in results["results"] if one["benchmark"] == "textvqa:val")
    assert first["published"] == 65.2
    assert [one["interval"] for one in first["parts"]] == [None, [50, 70]]
    assert first["counts"] == {"cut": 1, "empty": 0, "unparsed": 2, "skipped": 1, "notes": 0}
    usage = {"seconds_between_answers": 2.0, "prompt_tokens": 2800, "completion_tokens": 20}
    assert first["run"]["usage"] == usage
    assert {"mgm", "torch", "transformers", "python"} == first["run"]["versions"].keys()


def test_page_shows_responses_with_images(responses, tmp_path):
    written(tmp_path, score_of(responses), responses)
    write_report(tmp_path, "m")
    text = (tmp_path / "report.html").read_text()
    assert text.count("data:image/jpeg;base64,") == 4
    assert len(re.findall("class='example wrong'", text)) == 2
    assert len(re.findall("class='example right'", text)) == 2
    assert "&lt;b&gt;what?&lt;/b&gt;" in text
    assert "<b>what?" not in text
    assert "credit by size of the image" in text
    assert "<option value='8 to 11 pixels'>" in text
    assert re.search(r"(src|href)=['\"]?(http|/|\.)", text) is None  # the page embeds everything


HOSTILE = "<script>alert(1)</script>' onload='x' \"</dd>|&lt;"


def test_markup_is_escaped(responses, tmp_path):
    """From a model, a data set or a server; long responses are truncated."""
    one = responses[0]
    question = replace(one.question, id=HOSTILE, category=HOSTILE, target={"a": [HOSTILE]})
    bad = [replace(one, question=question, text=HOSTILE + "x" * 100_000)]
    score = score_of(
        bad, parts={HOSTILE: (1.0, 1)}, title=HOSTILE, judge=HOSTILE,
        skipped=(SkippedQuestion(HOSTILE, HOSTILE),), run=info_of(bad, path=HOSTILE),
    )  # fmt: skip
    written(tmp_path, score, bad)
    write_report(tmp_path, HOSTILE)
    text = (tmp_path / "report.html").read_text()
    assert text.count("<script>") == 1  # ours
    assert "onload='x'" not in text
    assert "more characters in samples.jsonl" in text
    assert len(text) < 60_000
    sample = json.loads((tmp_path / "textvqa" / "val" / "paper" / SAMPLES_FILE).read_text())
    assert len(sample["answer"]) > 100_000


def test_examples_of_all_categories():
    samples = [
        {"id": str(n), "category": "rare" if n == 999 else "common", "credit": float(n % 2 == 1)}
        for n in range(1000)
    ]
    samples[999]["credit"] = 0.0
    examples = choose_examples(samples)
    assert len(examples) == 60
    assert examples[1]["id"] == "999"
    assert sum(one["credit"] for one in examples) == 20


def test_sizes_of_texts_and_images(tmp_path):
    assert truncate("x" * MAX_TEXT) == "x" * MAX_TEXT
    assert truncate({"a": 1}) == '{"a": 1}'
    Image.effect_noise((900, 600), 100).save(tmp_path / "noise.png")
    assert len(thumbnail(tmp_path / "noise.png")) < 80_000
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert thumbnail(tmp_path / "broken.png") == ""


def test_score_without_an_interval():
    assert "<i " in bar(50.0, (40.0, 60.0), 100.0)
    assert "<i " not in bar(50.0, (None, None), 100.0)
    assert bar(None, (None, None), 100.0) == ""
    assert "left:100.00%" in bar(150.0, (None, None), None)


def test_digest_of_questions_covers_their_content(responses, tmp_path):
    questions = [one.question for one in responses]
    digest = questions_digest(questions)
    assert digest == questions_digest(list(questions))
    assert digest != questions_digest(questions[::-1])
    assert digest != questions_digest([replace(questions[0], target="blue"), *questions[1:]])
    assert questions_digest([replace(questions[0], images=(tmp_path / "gone.png",))])


def test_questions_with_notes_are_listed(responses, tmp_path):
    format_notes = {f"{n}": f"the judge gave no number, at last {n}" for n in range(30)}
    written(tmp_path, score_of(responses, notes=format_notes), responses)
    write_report(tmp_path, "m")
    (result,) = json.loads((tmp_path / "results.json").read_text())["results"]
    assert result["counts"]["notes"] == 30
    assert result["notes"][3] == {"id": "3", "reason": format_notes["3"]}
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate({
        "format": 2, "model": "m", "results": [result]
    })  # fmt: skip
    text = (tmp_path / "report.md").read_text()
    assert f"- 3: {format_notes['3']}\n" in text
    assert "- and 10 more; results.json has all\n" in text


def test_scores_belong_to_the_latest_run_of_the_model(responses, tmp_path, caplog):
    """Not to the newest date, which a score of another model may have."""
    own = {"date": "2026-01-01T00:00:00+00:00", "model": {"name": "a", "digest": None}}
    other = {"date": "2030-01-01T00:00:00+00:00", "model": {"name": "b", "digest": None}}
    written(tmp_path, score_of(responses, run=own), responses)
    written(tmp_path, score_of(responses, benchmark="gqa:testdev", run=other), responses)
    assert [one.benchmark for one in write_report(tmp_path, "a", own)] == ["textvqa:val"]
    assert "another model or other weights (b, not a)" in caplog.text
    assert "--model for --predictions of one model" in caplog.text
    assert [one.benchmark for one in write_report(tmp_path, "b")] == ["gqa:testdev"]


@pytest.mark.parametrize(
    "odd",
    [
        {"run": {"date": 7}}, {"run": {"model": None}}, {"run": 3}, {"value": "9"},
        {"value": float("nan")}, {"low": float("inf")}, {"counts": {"cut": "x"}}, {"judge": None},
        {"questions": 1.5}, {"notes": {"1": 2}}, {"run": {"usage": {"seconds": float("nan")}}},
    ],
)  # fmt: skip
def test_invalid_scores_are_ignored(responses, tmp_path, odd, caplog):
    written(tmp_path, score_of(responses), responses)
    written(tmp_path, score_of(responses, benchmark="gqa:testdev"), responses)
    (file,) = tmp_path.glob("gqa/*/*/score.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | odd))
    assert [one.benchmark for one in write_report(tmp_path, "m")] == ["textvqa:val"]
    assert "not a score.json of mgm" in caplog.text
