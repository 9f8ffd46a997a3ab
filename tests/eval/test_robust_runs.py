"""Runs with errors: the rest is reported, and what is missing is listed."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from mgm.errors import MGMError
from mgm.eval.__main__ import main
from mgm.eval.benchmarks.gqa import GQA
from mgm.eval.report.scoring import JUDGE_THREADS
from tests.eval.fixtures import dump, lines, make_all, picture
from tests.eval.full_disk import full_after
from tests.eval.harness.misbehaving_server import refused, reply_with, server
from tests.preloaded import PYTHON
from tests.serve.servers import ROOT
from tests.tiny_model import build


@pytest.fixture
def data(tmp_path):
    return make_all(tmp_path / "data")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build(tmp_path_factory.mktemp("models") / "tiny", positions=2048)


def words(data: Path, model: Path, output: Path, *more: str) -> list[str]:
    own = ["--model-path", str(model), "--device", "cpu", "--data-dir", str(data)]
    return [*own, "--output-dir", str(output), *more]


def score_of(output: Path, benchmark: str, split: str, protocol: str = "paper") -> dict:
    return json.loads((output / benchmark / split / protocol / "score.json").read_text())


def test_error_of_one_benchmark(data, model, tmp_path, capfd, caplog):
    (data / "gqa" / "data" / "images" / "1.jpg").write_bytes(b"no image")
    out = tmp_path / "out"
    assert main(words(data, model, out, "--benchmark", "gqa", "mme")) == 2
    assert "MME (mme:test)" in capfd.readouterr().out
    assert "error: gqa:testdev: gqa: no responses (20: question 20: image 1" in caplog.text
    assert score_of(out, "mme", "test")["questions"] == 8
    assert "MME" in (out / "report.html").read_text()
    with pytest.raises(MGMError, match="gqa: no responses"):  # no other benchmark to report
        main(words(data, model, out, "--benchmark", "gqa"))


def test_damaged_records_and_images_are_skipped(data, model, tmp_path, caplog):
    """Every kind of damaged record; the ids of the others do not change."""
    folder = data / "textvqa"
    file = folder / "llava_textvqa_val_v051_ocr.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    image = records[2] | {"image": "nowhere.jpg"}
    odd = [{"question_id": "a"}, records[0] | {"text": None}, records[0] | {"text": 7}, image]
    odd += [records[0] | {"question_id": "nobody"}, records[0] | {"image": ["a.jpg"]}]
    text = [json.dumps(records[0]), "{", "[" * 3000, "[7]", *map(json.dumps, odd)]
    file.write_text("\n".join([*text, json.dumps(records[1]), "null"]))
    out = tmp_path / "out"
    assert main(words(data, model, out, "--benchmark", "textvqa")) == 0
    score = score_of(out, "textvqa", "val")
    assert list(score["credits"]) == ["0", "10"]
    skipped = {one["id"]: one["reason"] for one in score["skipped"]}
    assert len(skipped) == 10
    assert "nowhere.jpg" in skipped["7"]
    assert score["complete"] is False
    assert caplog.text.count(": skipping ") == 9  # an error before the model is loaded


def test_server_that_stops(data, tmp_path, capfd, caplog):
    """Earlier responses are scored; the next run continues."""

    def answer(body):
        seen.append(body)
        return reply_with("Yes") if len(seen) <= 3 else refused("no such model", 404)

    seen: list = []
    with server(answer) as (address, _):
        more = ["--endpoint", address, "--model", "m", "--batch-size", "1"]
        options = [*more, "--data-dir", str(data), "--output-dir", str(tmp_path / "out")]
        assert main([*options, "--benchmark", "mme", "gqa"]) == 2
    assert "partial, 3 of 2,374 questions" in capfd.readouterr().out
    assert "error: mme:test: http" in caplog.text
    assert "no such model" in caplog.text
    with server(reply_with("Yes")) as (address, bodies):
        options[1] = address
        assert main([*options, "--benchmark", "mme", "gqa"]) == 0
        assert len(bodies) >= 6  # another endpoint may have another model


def nano(data: Path, count: int) -> None:
    picture(data / "nano" / "images" / "1.png", "red")
    turns = [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": "red"}]
    record = {"image": "1.png", "conversations": turns, "kinds": ["colour"]}
    dump(data / "nano" / "conversations.json", [record | {"id": f"{n}"} for n in range(count)])


@pytest.mark.parametrize("name", ["nano:held_out", "qbench:dev", "vqav2:test-dev"])
def test_limited_runs_are_partial(data, model, tmp_path, capfd, name):
    """Also for unknown totals, and splits without public targets."""
    nano(data, 3)
    if name.startswith("qbench"):
        file = data / "qbench" / "llvisionqa_dev.json"
        file.write_text(json.dumps(json.loads(file.read_text()) * 3))
    benchmark, split = name.split(":")
    out = tmp_path / "out"
    assert main(words(data, model, out, "--benchmark", name, "--limit", "1")) == 0
    assert "partial, 1 of" in capfd.readouterr().out
    assert score_of(out, benchmark, split)["complete"] is False
    for report in ("report.md", "report.html"):
        assert "partial" in (out / report).read_text()
    if benchmark == "nano":
        assert main(words(data, model, out, "--benchmark", name)) == 0
        assert "partial" not in capfd.readouterr().out
        assert score_of(out, benchmark, split)["complete"] is True


def whole(folder: Path) -> bool:
    """Whether every file in a folder is complete."""
    for file in folder.rglob("*"):
        if file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix == ".html" and not file.read_text().rstrip().endswith("</html>"):
            return False
        elif file.suffix == ".jsonl" and file.parent.name != "answers":
            [json.loads(line) for line in file.read_text().splitlines()]
        elif ".part" in file.name:
            return False
    return True


@pytest.mark.parametrize("size", [500, 2500, 10_000])
def test_full_disk_leaves_no_partial_files(data, model, tmp_path, size):
    """While responses, score, submission files and report are written."""
    options = words(data, model, tmp_path / "out", "--benchmark", "mme", "textvqa")
    with full_after(size), pytest.raises(MGMError, match=r"out.* could not be written \(File too"):
        main(options)
    assert whole(tmp_path / "out")
    assert main(options) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    with full_after(size), pytest.raises(MGMError, match=r"out.* could not be written \(File too"):
        main([*options, "--score-only"])
    assert whole(tmp_path / "out")
    assert set(before) == set((tmp_path / "out").rglob("*.*"))


def test_failed_submission_files(data, model, tmp_path, monkeypatch, caplog):
    """The score is written, and the report has the error."""

    def broken(*_):
        raise ValueError("no number: 'x'")

    monkeypatch.setattr(GQA, "submission", broken)
    out = tmp_path / "out"
    assert main(words(data, model, out, "--benchmark", "gqa", "mme")) == 2
    assert score_of(out, "gqa", "testdev")["questions"] == 1
    assert "error: gqa:testdev: " in caplog.text
    assert "no number: 'x'" in caplog.text


def test_predictions_with_a_limit(data, tmp_path, capfd, caplog):
    """Predictions beyond the limit are not unknown."""
    records = [{"question_id": "10", "text": "A"}, {"question_id": "v_11", "text": "B"}]
    lines(tmp_path / "theirs.jsonl", records)
    options = ["--predictions", str(tmp_path / "theirs.jsonl"), "--data-dir", str(data)]
    options += ["--output-dir", str(tmp_path / "out"), "--benchmark", "seed"]
    assert main([*options, "--limit", "1"]) == 0
    assert "partial, 1 of 19,242 questions" in capfd.readouterr().out
    assert "does not have" not in caplog.text


def test_published_folder_names(data, model, tmp_path):
    shutil.move(data / "mmbench", data / "MMB")
    assert main(words(data, model, tmp_path / "out", "--benchmark", "mmbench")) == 0
    assert score_of(tmp_path / "out", "mmbench", "dev")["questions"] == 3


@pytest.mark.slow
@pytest.mark.process
def test_kills_while_judging(data, tmp_path):
    """SIGKILL: complete replies are cached."""
    folder, count = data / "mm-vet", 60
    truths = {f"v1_{n}": {"question": f"What is {n}?", "answer": f"{n}", "capability": ["ocr"]}
              for n in range(count)}  # fmt: skip
    dump(folder / "mm-vet.json", truths)
    records = [
        {"question_id": n, "image": "v1_0.png", "text": f"What is {n}?"} for n in range(count)
    ]
    lines(folder / "llava-mm-vet.jsonl", records)
    lines(tmp_path / "a.jsonl", [{"question_id": n, "text": f"{n}"} for n in range(count)])

    def answer(body):
        time.sleep(0.2)
        return reply_with("1.0")

    with server(answer) as (address, bodies):
        options = ["--predictions", str(tmp_path / "a.jsonl"), "--benchmark", "mmvet"]
        options += ["--data-dir", str(data), "--output-dir", str(tmp_path / "out")]
        options += ["--judge", "gpt", "--judge-url", address]
        for enough in (10, 40):
            process = subprocess.Popen(
                [PYTHON, "-m", "mgm.eval", *options], cwd=ROOT, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            until = time.monotonic() + 120
            while len(bodies) < enough and process.poll() is None:
                assert time.monotonic() < until
                time.sleep(0.01)
            process.kill()
            process.communicate()
        assert main(options) == 0
        prompts = {body["messages"][0]["content"] for body in bodies}
        assert len(prompts) == count
        assert len(bodies) <= count + 2 * JUDGE_THREADS
    assert score_of(tmp_path / "out", "mmvet", "test")["value"] == 100
