"""Outputs of runs: accumulated reports, results.json, comparisons."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

import mgm.eval
from mgm.errors import MGMError
from mgm.eval.__main__ import main
from mgm.eval.options import model_settings, parse_args
from tests.eval.fixtures import make_all
from tests.tiny_model import build

SCHEMA = Path(mgm.eval.__file__).parent / "texts" / "results.schema.json"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_all(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build(tmp_path_factory.mktemp("models") / "tiny", positions=2048)


def evaluate(data, model, output, *more: str) -> int:
    words = ["--model-path", str(model), "--device", "cpu", "--data-dir", str(data)]
    return main([*words, "--output-dir", str(output), *more])


def results(output):
    content = json.loads((output / "results.json").read_text())
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(content)
    return {one["benchmark"]: one for one in content["results"]}


def test_report_accumulates_runs(data, model, tmp_path):
    assert evaluate(data, model, tmp_path, "--benchmark", "mme") == 0
    first = results(tmp_path)["mme:test"]
    assert evaluate(data, model, tmp_path, "--benchmark", "textvqa", "--limit", "2") == 0
    both = results(tmp_path)
    assert both["mme:test"] == first
    assert set(both) == {"textvqa:val", "mme:test"}
    page = (tmp_path / "report.html").read_text()
    assert "MME: perception + cognition" in page
    assert "TextVQA: accuracy" in page


def test_results_have_provenance(data, model, tmp_path):
    words = ("--benchmark", "mme", "--max-new-tokens", "2")
    assert evaluate(data, model, tmp_path, *words) == 0
    first = results(tmp_path)["mme:test"]
    run = first["run"]
    assert (run["model"]["name"], run["model"]["device"]) == ("tiny", "cpu")
    assert run["model"]["dtype"] == "float32"
    assert len(run["model"]["digest"]) == len(run["data"]["digest"]) == 64
    assert run["settings"]["max_new_tokens"] == 2
    assert run["data"]["questions"] == first["questions"] == 8
    usage = run["usage"]
    assert usage["seconds_between_answers"] > 0
    assert usage["prompt_tokens"] > 8 * 20
    assert 0 <= usage["completion_tokens"] <= 16
    assert first["complete"] is False
    # Scored again without the model: provenance and usage are kept.
    assert evaluate(data, model, tmp_path, *words, "--score-only") == 0
    again = results(tmp_path)["mme:test"]
    assert again["run"]["model"] == run["model"]
    assert again["run"]["usage"] == usage


def test_truncated_responses_are_counted(data, tmp_path):
    endless = build(tmp_path / "endless", positions=2048, endless=True)
    words = ("--benchmark", "gqa", "--max-new-tokens", "2")
    assert evaluate(data, endless, tmp_path / "out", *words) == 0
    assert results(tmp_path / "out")["gqa:testdev"]["counts"]["cut"] == 1
    (sample,) = (tmp_path / "out").glob("gqa/*/*/samples.jsonl")
    assert json.loads(sample.read_text())["finish_reason"] == "length"


def test_compare(data, model, tmp_path, capfd):
    for name in ("one", "two"):
        assert evaluate(data, model, tmp_path / name, "--benchmark", "mme") == 0
    folders = ["--compare", str(tmp_path / "one"), str(tmp_path / "two"), str(tmp_path / "one")]
    assert main([*folders, "--output-file", str(tmp_path / "found.json")]) == 0
    comparisons = json.loads((tmp_path / "found.json").read_text())["comparisons"]
    assert [(one["first"], one["second"]) for one in comparisons] == [
        ("one", "two"),
        ("one", "one"),
    ]
    assert capfd.readouterr().out.count("mme:test, paper: ") == 2


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--compare .", "give two or more folders"),
        ("--compare . nowhere", "nowhere is not a folder"),
        ("--compare . . --output-file x.pdf", "give a .md, .html or .json file"),
        ("--compare . . --margin 0", "--margin 0.0"),
    ],
)
def test_invalid_options(words, text):
    with pytest.raises(MGMError, match=text):
        main(words.split())


@pytest.mark.parametrize(
    ("file", "benchmark", "name"),
    [
        ("MGM-7B_POPE.xlsx", "pope", "MGM-7B"),
        ("my_model_7b_HRBench4K.tsv", "hrbench:4k", "my_model_7b"),
        ("m_TextVQA_VAL.json", "textvqa", "m"),
        ("m_other.json", "textvqa", "m_other"),
        ("_POPE.json", "pope", "_POPE"),
        ("org__m/20260101_101010_samples_pope.jsonl", "pope", "org__m"),
    ],
)
def test_model_of_a_prediction_file(tmp_path, file, benchmark, name):
    words = ["--predictions", str(tmp_path / file), "--benchmark", benchmark]
    assert model_settings(parse_args(words)) == (name, {})
    assert model_settings(parse_args([*words, "--model", "other"])) == ("other", {})
