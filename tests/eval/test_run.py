"""Whole runs: response cache, kills, endpoints, several processes, reports."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import replace

import pytest

import mgm
from mgm.errors import MGMError
from mgm.eval.__main__ import main
from mgm.eval.harness.llm_judge import Judge, ModelJudge
from mgm.eval.harness.models import EndpointModel, EngineModel
from mgm.eval.harness.question import Question, Response
from mgm.eval.harness.response_cache import ResponseCache, model_key
from mgm.eval.harness.runner import cached_responses, generate_responses, group_by_image
from mgm.eval.registry import get_benchmark
from mgm.eval.report.score import load_score
from mgm.eval.report.scoring import score_responses
from mgm.serve.worker.app import build_worker_app
from mgm.serve.worker.worker import Worker
from tests.eval.fixtures import make_all, picture
from tests.preloaded import PYTHON
from tests.serve.servers import ROOT, running
from tests.tiny_model import build


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_all(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build(tmp_path_factory.mktemp("models") / "tiny", positions=2048)


def questions_of(data, name: str) -> list[Question]:
    kind, split = get_benchmark(name)
    return list(kind.questions(data / kind.folder, split, kind.protocols[0]))


def alone(model, questions: list[Question]) -> list[str]:
    engine = mgm.load(model, device="cpu")
    requests = [
        mgm.Request(one.text, images=list(one.images), max_new_tokens=one.max_new_tokens)
        for one in questions
    ]
    return [engine.answer([request])[0].text.strip() for request in requests]


@pytest.mark.parametrize("name", ["mme", "scienceqa", "mmmu"])
def test_responses_equal_single_questions(data, model, name, tmp_path):
    questions = questions_of(data, name)
    cache = ResponseCache(tmp_path, "tiny")
    generate_responses(questions, EngineModel(mgm.load(model, device="cpu"), 4), cache)
    responses = cached_responses(questions, cache)
    assert [one.text for one in responses] == alone(model, questions)


class Counting(EngineModel):
    question_ids: list[str] = []  # noqa: RUF012

    def generate(self, questions):
        def counted():
            for one in questions:
                self.question_ids.append(one.id)
                yield one

        yield from super().generate(counted())


def test_responses_are_cached_and_shared_between_protocols(data, model, tmp_path):
    engine = mgm.load(model, device="cpu")
    counting = Counting(engine, 4)
    counting.question_ids.clear()
    cache = ResponseCache(tmp_path, "tiny")
    mmvet, split = get_benchmark("mmvet")
    for protocol, count in (("paper", 2), ("paper", 2), ("vlmevalkit", 2), ("lmms-eval", 4)):
        cache = ResponseCache(tmp_path, "tiny")
        generate_responses(list(mmvet.questions(data / "mm-vet", split, protocol)), counting, cache)
        assert len(counting.question_ids) == count
    other = ResponseCache(tmp_path, "another model")
    generate_responses(questions_of(data, "mmvet"), counting, other)
    assert len(counting.question_ids) == 6
    image = data / "mm-vet" / "images" / "v1_0.png"
    before = image.read_bytes()
    try:
        picture(image, "green")
        generate_responses(questions_of(data, "mmvet"), counting, ResponseCache(tmp_path, "tiny"))
        assert len(counting.question_ids) == 8
    finally:
        image.write_bytes(before)


def test_equal_questions_run_once(data, model, tmp_path):
    (question,) = questions_of(data, "gqa")
    twins = [replace(question, id=name) for name in ("1", "2", "3")]
    counting = Counting(mgm.load(model, device="cpu"), 4)
    counting.question_ids.clear()
    cache = ResponseCache(tmp_path, "tiny")
    generate_responses(twins, counting, cache)
    assert len(counting.question_ids) == 1
    assert len({one.text for one in cached_responses(twins, cache)}) == 1
    assert len(cached_responses(twins, cache)) == 3


def test_partial_cache_lines_are_ignored(tmp_path, caplog):
    question = Question("1", "what?")
    cache = ResponseCache(tmp_path, "tiny")
    cache.put(cache.key(question), "red")
    file = tmp_path / "answers-0.jsonl"
    file.write_text(file.read_text() + '{"key": "ab", "te')
    with caplog.at_level("INFO", logger="mgm"):
        cache = ResponseCache(tmp_path, "tiny")
    assert "damaged lines of the response cache" in caplog.text
    other = Question("2", "who?")
    cache.put(cache.key(other), "me")
    again = ResponseCache(tmp_path, "tiny")
    assert [again.get(again.key(one)) for one in (question, other)] == ["red", "me"]


def test_questions_are_distributed_by_image(data, model, tmp_path):
    questions = questions_of(data, "mme")
    groups = group_by_image(questions)
    assert [len(group) for group in groups] == [2, 2, 2, 2]
    engine = mgm.load(model, device="cpu")
    for process in range(3):
        generate_responses(
            questions, EngineModel(engine, 4), ResponseCache(tmp_path, "t", process), process, 3
        )
    assert len(list(tmp_path.glob("answers-*.jsonl"))) == 3
    responses = cached_responses(questions, ResponseCache(tmp_path, "t"))
    assert [one.text for one in responses] == alone(model, questions)


def command(data, model, output, *more: str) -> list[str]:
    words = ["--model-path", str(model), "--device", "cpu", "--data-dir", str(data)]
    return [*words, "--output-dir", str(output), *more]


def test_the_command_line(data, model, tmp_path, capfd):
    names = ["textvqa", "mme", "vqav2", "mathvista"]
    words = command(data, model, tmp_path / "out", "--benchmark", *names)
    assert main(words) == 0
    output = capfd.readouterr().out
    assert re.search(r"TextVQA \(textvqa:val\) \| partial, 3 of 5,000 questions", output)
    assert "to be submitted" in output
    assert "paper, judged by rules" in output
    out = tmp_path / "out"
    score = load_score(out / "mme" / "test" / "paper" / "score.json")
    assert score.questions == 8
    assert (out / "textvqa" / "val" / "paper" / "merge.jsonl").is_file()
    page = (out / "report.html").read_text()
    assert "TextVQA" in page
    assert "data:image/jpeg;base64," in page
    assert main([*words, "--score-only"]) == 0
    assert main(["--compare", str(out), str(out)]) == 0
    assert "difference +0.00" in capfd.readouterr().out
    limited = command(data, model, tmp_path / "some", "--benchmark", "mme", "--limit", "2")
    assert main(limited) == 0
    assert "partial, 2 of 2,374" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("", "--benchmark: give some of textvqa"),
        ("--benchmark textvqa", "give --model-path, or --endpoint"),
        ("--benchmark textvqa --endpoint http://x", "give the name of the model"),
        ("--benchmark imagenet --model-path x", "unknown benchmark 'imagenet'"),
        ("--benchmark textvqa --model-path x --limit 0", "--limit 0"),
        ("--benchmark textvqa --model-path x --data-dir nowhere", "is missing"),
    ],
)
def test_invalid_options(words, text):
    with pytest.raises(MGMError, match=text):
        main(words.split())


@pytest.mark.slow
def test_killed_runs_keep_responses(data, tmp_path):
    """Repeated SIGKILL; each question is generated once."""
    endless = build(tmp_path / "endless", positions=4096, endless=True)
    words = command(data, endless, tmp_path / "out", "--benchmark", "mmmu", "--batch-size", "1")
    answers = tmp_path / "out" / "answers" / "answers-0.jsonl"

    def lines() -> int:
        return len(answers.read_bytes().splitlines()) if answers.exists() else 0

    for _ in range(2):
        before = lines()
        process = subprocess.Popen(
            [PYTHON, "-m", "mgm.eval", *words], cwd=ROOT, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        until = time.monotonic() + 120
        while lines() < before + 3 and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()  # until no process has its stderr open, so that it has exited
    assert main(words) == 0
    keys = [
        json.loads(line)["key"] for line in answers.read_text().splitlines() if line.endswith("}")
    ]
    assert len(keys) == len(set(keys)) == 30


@pytest.mark.slow
def test_two_processes_by_torchrun(data, model, tmp_path):
    words = command(data, model, tmp_path / "two", "--benchmark", "mme")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    ended = subprocess.run(
        [PYTHON, *torchrun, "--module", "mgm.eval", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.count("MME (mme:test)") == 1
    assert len(list((tmp_path / "two" / "answers").glob("*.jsonl"))) == 2
    assert main(command(data, model, tmp_path / "one", "--benchmark", "mme")) == 0
    path = "mme/test/paper/answers.jsonl"
    assert (tmp_path / "two" / path).read_text() == (tmp_path / "one" / path).read_text()


@pytest.mark.slow
def test_machines_without_a_shared_disk(data, model, tmp_path):
    """Two launchers as two machines, each with its copy of the model and its output folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in (1, 0):
        copy = tmp_path / f"model {rank}"
        shutil.copytree(model, copy)
        os.utime(copy / "config.json", (rank, rank))
        words = command(data, copy, tmp_path / f"out {rank}", "--benchmark", "mme", "textvqa")
        torchrun = ["torch.distributed.run", "--nnodes=2", f"--node_rank={rank}"]
        torchrun += ["--master_addr=127.0.0.1", f"--master_port={port}", "--nproc_per_node=1"]
        started.append(
            subprocess.Popen(
                [PYTHON, "-m", *torchrun, "--module", "mgm.eval", *words],
                cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        )  # fmt: skip
    other, first = (process.communicate(timeout=240) for process in started)
    assert [process.returncode for process in started] == [0, 0], (other[1], first[1])
    assert "MME (mme:test)" in first[0]
    assert other[0] == ""
    words = command(data, tmp_path / "model 0", tmp_path / "one", "--benchmark", "mme", "textvqa")
    assert main(words) == 0
    for path in ("mme/test/paper/answers.jsonl", "textvqa/val/paper/merge.jsonl"):
        assert (tmp_path / "out 0" / path).read_text() == (tmp_path / "one" / path).read_text()
    assert len(list((tmp_path / "out 1" / "answers").glob("*.jsonl"))) == 1


def test_endpoint(data, model, tmp_path):
    questions = questions_of(data, "mme")
    worker = Worker(mgm.load(model, device="cpu"), ("tiny",))
    with running(build_worker_app(worker)) as address:
        cache = ResponseCache(tmp_path, "there")
        generate_responses(questions, EndpointModel(f"{address}/v1", "tiny", 4), cache)
        responses = [one.text for one in cached_responses(questions, cache)]
        assert responses == alone(model, questions)
        other = EndpointModel(f"{address}/v1", "other", 2)
        with pytest.raises(MGMError, match=r"refuses \(404\): .*tiny"):
            generate_responses(questions, other, ResponseCache(tmp_path, "x"))
    nobody = EndpointModel("http://127.0.0.1:9/v1", "m", 2, wait=0.001)
    with pytest.raises(MGMError, match="does not respond after 5 attempts"):
        generate_responses(questions, nobody, ResponseCache(tmp_path, "y"))


def judge_application(replies: list):
    """A judge with given replies; the prompts are recorded in a list."""
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse

    app, bodies = FastAPI(), []

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> JSONResponse:
        body = await request.json()
        bodies.append(body)
        answer = replies[min(len(bodies), len(replies)) - 1]
        if isinstance(answer, int):
            return JSONResponse({"error": "no"}, answer, headers={"Retry-After": "0"})
        message = {"message": {"content": answer}}
        usage = {"prompt_tokens": 10, "completion_tokens": 2}
        return JSONResponse({"choices": [message], "usage": usage})

    return app, bodies


def test_judge(data, tmp_path):
    kind, split = get_benchmark("mmvet")
    questions = questions_of(data, "mmvet")[:1]
    responses = [Response(one, "x = -1") for one in questions]
    app, bodies = judge_application([500, 429, "no idea", "0.5"])
    with running(app) as address:
        judge = ModelJudge("gpt", f"{address}/v1", tmp_path / "judge.jsonl", wait=0.001)
        score = score_responses(kind, split, "paper", questions, responses, judge)
        assert (score.value, score.judge) == (50, "gpt")
        prompts = [body["messages"][0]["content"] for body in bodies]
        assert prompts[0].endswith("What is x? | -1 <AND> -5 | x = -1 | ")
        assert prompts[-1].endswith("x = -1 | \nPredict the correctness of the answer (digit): ")
        assert [body["temperature"] for body in bodies] == [0, 0, 0, 0.5]
        assert (judge.usage.requests, judge.usage.prompt_tokens) == (2, 20)
        again = ModelJudge("gpt", f"{address}/v1", tmp_path / "judge.jsonl", wait=0.001)
        assert score_responses(kind, split, "paper", questions, responses, again).value == 50
        assert len(bodies) == 5  # parseable replies are cached
    for reply in ("soon", None):
        app, _ = judge_application([reply])
        with running(app) as address:  # a reply without a grade skips its question
            judge = ModelJudge("gpt", f"{address}/v1", tmp_path / f"{reply}.jsonl", wait=0.001)
            assert score_responses(kind, split, "paper", questions, responses, judge).value == 0
    app, _ = judge_application([401])
    with running(app) as address:
        judge = ModelJudge("gpt", f"{address}/v1", tmp_path / "401.jsonl", wait=0.001)
        with pytest.raises(MGMError, match="refuses"):
            score_responses(kind, split, "paper", questions, responses, judge)
    assert score_responses(kind, split, "paper", questions, responses, Judge()).judge == "rules"


def test_cache_key_depends_on_weights(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(name.encode() * 3)
    names = {model_key(str(tmp_path / name), {}) for name in ("a", "b")}
    names |= {model_key(str(tmp_path / "a"), {"dtype": "float16"})}
    assert len(names) == 3
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    base = {"model_base": str(tmp_path / "base")}
    names.add(model_key(str(tmp_path / "a"), base))
    (tmp_path / "base" / "config.json").write_text("[]")
    names.add(model_key(str(tmp_path / "a"), base))
    (tmp_path / "a" / "chat_template.jinja").write_text("x")  # it affects responses, too
    names.add(model_key(str(tmp_path / "a"), {}))
    assert len(names) == 6


def test_cache_key_ignores_times_and_other_files(tmp_path):
    """And the path of the model's folder."""
    for parent in ("one", "two"):
        (tmp_path / parent / "m").mkdir(parents=True)
        (tmp_path / parent / "m" / "model.safetensors").write_bytes(b"weights")
    os.utime(tmp_path / "two" / "m" / "model.safetensors", (1, 1))
    (tmp_path / "two" / "m" / "README.md").write_text("read me")
    assert len({model_key(str(tmp_path / name / "m"), {}) for name in ("one", "two")}) == 1
