"""A worker's HTTP API: the official OpenAI client, the published stream, malformed and hostile
requests.
"""

import base64
import io
import json
import threading
import time
import urllib.request
from itertools import pairwise

import pytest
from PIL import Image

import mgm
from mgm.data.text.templates import IMAGE_MARKER
from mgm.engine.attribution.mining import attribute_mining
from mgm.engine.core.request import Answer
from mgm.engine.core.sequence import Chunk
from mgm.serve.http.attribution_json import decode_attribution
from mgm.serve.tools.image_generation import GEN_SUFFIX
from mgm.serve.tools.tools import WorkerTools
from mgm.serve.worker.app import build_worker_app
from mgm.serve.worker.image_fetcher import ImageFetcher
from mgm.serve.worker.worker import Limits, Worker
from tests.serve.servers import ask, frames, running, wait_for
from tests.tiny_model import build

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def alone(folder):
    """An engine without a server, for expected answers."""
    return mgm.load(folder, device="cpu")


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    return build(tmp_path_factory.mktemp("models") / "endless", positions=4096, endless=True)


@pytest.fixture(scope="module")
def worker(folder):
    engine = mgm.load(folder, device="cpu", num_speculative_tokens=8)
    return Worker(engine, ("tiny",), Limits(max_concurrency=4, max_tokens=40))


@pytest.fixture(scope="module")
def address(worker):
    with running(build_worker_app(worker)) as url:
        yield url


@pytest.fixture
def client(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def data_url(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


@pytest.fixture
def pictures():
    return [Image.new("RGB", (50, 30), "red"), Image.radial_gradient("L").convert("RGB")]


def parts(text: str, *images: Image.Image) -> list[dict]:
    urls = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    return [*urls, {"type": "text", "text": text}]


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_chat_equals_the_engine(client, alone, pictures):
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": parts("what is this?", *pictures)},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": "sure?"},
    ]
    expected = alone.answer(
        [
            mgm.Request(
                "sure?",
                images=pictures,
                history=[("Be short.\n\n<image>\n<image>\nwhat is this?", "red")],
                max_new_tokens=15,
            )
        ]
    )[0]
    settings = {"model": "tiny", "messages": messages, "temperature": 0, "max_tokens": 15}
    completion = client.chat.completions.create(**settings)
    assert completion.choices[0].message.content == expected.text
    assert completion.choices[0].finish_reason == expected.finish_reason
    assert completion.usage.prompt_tokens == expected.prompt_tokens
    assert completion.usage.completion_tokens == len(expected.tokens)
    again = client.chat.completions.create(**settings)
    assert again.usage.prompt_tokens_details.cached_tokens == expected.prompt_tokens - 1


def test_streamed_chat(client, alone):
    settings = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0,
        "max_completion_tokens": 20,
    }
    whole = client.chat.completions.create(**settings)
    chunks = list(
        client.chat.completions.create(
            **settings, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_n_seed_and_stop(client):
    settings = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "draw"}],
        "max_tokens": 12,
        "n": 3,
        "seed": 5,
    }
    first = [
        choice.message.content for choice in client.chat.completions.create(**settings).choices
    ]
    again = [
        choice.message.content for choice in client.chat.completions.create(**settings).choices
    ]
    assert first == again
    assert len(set(first)) == 3
    streamed: dict[int, str] = {}
    for chunk in client.chat.completions.create(**settings, stream=True):
        choice = chunk.choices[0]
        streamed[choice.index] = streamed.get(choice.index, "") + (choice.delta.content or "")
    assert [streamed[number] for number in range(3)] == first
    stop = first[0][3:6]
    stopped = client.chat.completions.create(**settings | {"n": 1}, stop=[stop]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (first[0].partition(stop)[0], "stop")


def test_logprobs(client, alone):
    settings = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0,
        "max_tokens": 6,
        "logprobs": True,
        "top_logprobs": 3,
    }
    content = client.chat.completions.create(**settings).choices[0].logprobs.content
    (expected,) = alone.answer([mgm.Request("hi", max_new_tokens=6, logprobs=3)])
    assert [one.logprob for one in content] == pytest.approx(
        [choice.logprob for choice in expected.sampled_tokens], abs=1e-4
    )
    assert all(one.top_logprobs[0].logprob == one.logprob for one in content)
    assert all(len(one.top_logprobs) == 3 for one in content)
    streamed = [
        one
        for chunk in client.chat.completions.create(**settings, stream=True)
        if chunk.choices and chunk.choices[0].logprobs
        for one in chunk.choices[0].logprobs.content
    ]
    assert [one.token for one in streamed] == [one.token for one in content]


@pytest.mark.parametrize("stop", [None, "a"])
def test_logprob_tokens_join_to_the_text(client, stop):
    """The tiny model writes whole characters, partial ones and invalid bytes."""
    for seed in range(3):
        settings = {"model": "tiny", "temperature": 1, "seed": seed, "max_tokens": 30, "stop": stop}
        chat = settings | {"messages": [{"role": "user", "content": "hi"}], "logprobs": True}
        choice = client.chat.completions.create(**chat).choices[0]
        content = choice.logprobs.content
        assert "".join(one.token for one in content) == choice.message.content
        raw = bytes(byte for one in content for byte in one.bytes)
        assert raw == choice.message.content.encode()
        for chunk in client.chat.completions.create(**chat, stream=True):
            if chunk.choices and chunk.choices[0].logprobs:
                part = chunk.choices[0]
                shown = "".join(one.token for one in part.logprobs.content)
                assert shown == part.delta.content
        plain = settings | {"prompt": "<|user|>hi<|end|><|assistant|>", "logprobs": 20}
        choice = client.completions.create(**plain).choices[0]
        logprobs = choice.logprobs
        assert "".join(logprobs.tokens) == choice.text
        for token, offset, value, top in zip(
            logprobs.tokens,
            logprobs.text_offset,
            logprobs.token_logprobs,
            logprobs.top_logprobs,
            strict=True,
        ):
            assert choice.text[offset:].startswith(token)
            assert top[token] == value
            assert len(top) in (20, 21)
        streamed = [
            chunk.choices[0].logprobs
            for chunk in client.completions.create(**plain, stream=True)
            if chunk.choices and chunk.choices[0].logprobs
        ]
        assert [at for one in streamed for at in one.text_offset] == logprobs.text_offset


def test_completions(client, alone):
    prompt = alone.prompt(mgm.Request("hi"))
    completion = client.completions.create(
        model="tiny", prompt=prompt, temperature=0, max_tokens=20
    )
    (expected,) = alone.answer([mgm.Request("hi", max_new_tokens=20)])
    assert completion.choices[0].text == expected.text
    text = "".join(
        chunk.choices[0].text
        for chunk in client.completions.create(
            model="tiny", prompt=prompt, temperature=0, max_tokens=20, stream=True
        )
    )
    assert text == expected.text
    both = client.completions.create(model="tiny", prompt=[prompt, "b"], temperature=0)
    assert both.choices[0].text == expected.text[: len(both.choices[0].text)] or both


def test_published_stream(address, alone, pictures):
    """As the published page: a rendered prompt, images in base64; frames have the whole text."""
    request = mgm.Request("what is this?", images=pictures, max_new_tokens=12)
    prompt = alone.prompt(request)
    (expected,) = alone.answer([request])
    body = {
        "model": "tiny",
        "prompt": prompt,
        "temperature": 0,
        "top_p": 1.0,
        "max_new_tokens": 12,
        "stop": "<|end|>",
        "images": [data_url(image).partition(",")[2] for image in pictures],
    }
    got = frames(f"{address}/worker_generate_stream", body)
    assert all(one["error_code"] == 0 for one in got)
    assert got[0]["text"] == prompt
    assert got[-1]["text"] == prompt + expected.text
    for before, after in pairwise(got):
        assert after["text"].startswith(before["text"])
    assert ask(f"{address}/worker_get_status", {}) == (
        200,
        {"model_names": ["tiny"], "speed": 1, "queue_length": 0},
    )
    (wrong,) = frames(f"{address}/worker_generate_stream", body | {"images": []})
    assert wrong["error_code"] == 1
    assert "2 <image> for 0 images" in wrong["text"]


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
MESSAGE = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "x"}


@pytest.mark.parametrize(
    ("change", "status", "field", "text"),
    [
        ({"model": "other"}, 404, "model", "choose from tiny"),
        ({"model": None}, 400, "model", "a string, but got null"),
        ({"messages": []}, 400, "messages", "empty array"),
        ({"messages": [{"role": "x", "content": "x"}]}, 400, "messages[0].role", "'user'"),
        ({"temperature": "hot"}, 400, "temperature", "a decimal, but got a string"),
        ({"continue_final_message": True}, 400, "continue_final_message", "have role 'assistant'"),
        (
            {"messages": [MESSAGE, ANSWER], "continue_final_message": True}
            | {"add_generation_prompt": True},
            400,
            "add_generation_prompt",
            "contradicts",
        ),
        ({"tools": [TOOL], "tool_choice": "required"}, 400, "tool_choice", "'none' or 'auto'"),
        ({"logit_bias": {"x": 1}}, 400, "logit_bias", "Keys are token ids"),
        ({"response_format": {"type": "json_schema"}}, 400, "response_format.json_schema", "Miss"),
        ({"structured_outputs": {}}, 400, "structured_outputs", "got none"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            400,
            "structured_outputs",
            "contradicts",
        ),
        ({"messages": [MESSAGE | {"content": "x" * 3000}]}, 400, "messages", "context has 512"),
        ({"messages": [MESSAGE | {"content": "x" * 10**6}]}, 400, "messages", "1000031 characters"),
    ],
)  # fmt: skip
def test_invalid_requests(address, change, status, field, text):
    body = {"model": "tiny", "messages": [MESSAGE]} | change
    for stream in (False, True):
        actual, answer = ask(f"{address}/v1/chat/completions", {"stream": stream} | body)
        assert actual == status, answer
        assert text in answer["error"]["message"]
        assert answer["error"]["param"] == field
        assert "Traceback" not in json.dumps(answer)


def test_tools_are_ignored(address):
    """As Open WebUI sends them with every question."""
    body = {"model": "tiny", "messages": [MESSAGE], "temperature": 0, "max_tokens": 5}
    plain = ask(f"{address}/v1/chat/completions", body)[1]
    for more in ({"tools": [TOOL]}, {"tools": [TOOL], "tool_choice": "auto"}):
        status, answer = ask(f"{address}/v1/chat/completions", body | more)
        assert status == 200
        assert answer["choices"] == plain["choices"]


def image_message(url: object) -> dict:
    image = {"type": "image_url", "image_url": {"url": url}}
    return {"model": "tiny", "messages": [{"role": "user", "content": [image]}]}


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("file:///etc/passwd", "file URLs are not supported"),
        ("/etc/passwd", "not an image"),
        ("ftp://example.com/a.png", "ftp URLs are not supported"),
        ("http://127.0.0.1/a.png", "not a public address"),
        ("https://127.0.0.1/a.png", "not a public address"),
        ("http://localhost:22/a.png", "not a public address"),
        ("http://[::1]/a.png", "not a public address"),
        ("http://[::ffff:127.0.0.1]/a.png", "not a public address"),
        ("http://169.254.169.254/latest/meta-data", "not a public address"),
        ("http://10.0.0.1/a.png", "not a public address"),
        ("http://2130706433/a.png", "not a public address"),
        ("http://0/a.png", "not a public address"),
        ("data:image/png;base64,!!", "not a valid data URL"),
        ("data:image/png;base64,AAAA", ""),
        ("", "empty string"),
        (None, "a string, but got null"),
        ({"a": 1}, "a string, but got an object"),
    ],
)
def test_local_files_and_addresses_are_not_opened(address, url, text):
    status, answer = ask(f"{address}/v1/chat/completions", image_message(url))
    assert status == 400
    assert text in answer["error"]["message"]
    assert "root:" not in json.dumps(answer)


@pytest.mark.parametrize("stream", [False, True])
def test_damaged_images_are_client_errors(address, stream):
    whole = base64.b64decode(data_url(Image.radial_gradient("L")).split(",")[1])
    for damaged in (whole[:20], whole[: len(whole) // 2]):
        url = f"data:image/png;base64,{base64.b64encode(damaged).decode()}"
        body = image_message(url) | {"stream": stream}
        status, answer = ask(f"{address}/v1/chat/completions", body)
        assert status == 400
        assert answer["error"]["param"] == "url", answer
        assert answer["error"]["code"] == "invalid_image_url"


def test_pixel_limit():
    from mgm.errors import MGMError

    content = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(content, "PNG")
    text = base64.b64encode(content.getvalue()).decode()
    with pytest.raises(MGMError, match="more than 67,108,864 pixels"):
        ImageFetcher().decode(text, "image 1")


def test_bodies(address):
    url = f"{address}/v1/chat/completions"
    assert ask(url, b"{")[0] == 400
    assert ask(url, b"[" * 100_000)[0] == 400
    assert ask(url, b"\xff")[0] == 400
    assert ask(f"{address}/nowhere", {})[0] == 404
    assert ask(url)[0] == 405


def test_body_size_keys_and_cors(worker):
    app = build_worker_app(worker, api_keys=["right"], max_body=1000, origins=["https://a.b"])
    with running(app) as address:
        url = f"{address}/v1/chat/completions"
        body = {"model": "tiny", "messages": [MESSAGE], "max_tokens": 1}
        assert ask(url, body)[0] == 401
        assert ask(url, body, Authorization="Bearer wrong")[0] == 401
        assert ask(url, body, Authorization="Bearer right")[0] == 200
        status, answer = ask(url, b"x" * 1001, Authorization="Bearer right")
        assert (status, answer["error"]["code"]) == (413, "request_too_large")
        request = urllib.request.Request(url, b"x" * 5000, {"Authorization": "Bearer right"})
        request.add_header("Transfer-Encoding", "chunked")
        assert ask(f"{address}/health")[0] == 200
        for origin, allowed in (("https://a.b", True), ("https://c.d", False)):
            request = urllib.request.Request(f"{address}/health", headers={"Origin": origin})
            with urllib.request.urlopen(request) as response:
                assert ("Access-Control-Allow-Origin" in response.headers) == allowed


def test_full_queue(endless):
    worker = Worker(mgm.load(endless, device="cpu"), ("e",), Limits(max_concurrency=1, max_queue=1))
    body = {"model": "e", "messages": [MESSAGE], "max_tokens": 300, "temperature": 0}
    with running(build_worker_app(worker)) as address:
        url = f"{address}/v1/chat/completions"
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(ask(url, body)[0])) for _ in range(2)
        ]
        for number, thread in enumerate(threads):
            thread.start()
            wait_for(lambda count=number + 1: worker.limiter.length == count)
        status, answer = ask(url, body)
        assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
        (frame,) = frames(f"{address}/worker_generate_stream", {"prompt": "a", "model": "e"})
        assert frame["error_code"] == 1
        for thread in threads:
            thread.join(60)
        assert statuses == [200, 200]


def test_disconnect_cancels_the_request(endless):
    worker = Worker(mgm.load(endless, device="cpu"), ("e",), Limits(max_concurrency=2))
    body = {"model": "e", "messages": [MESSAGE], "max_tokens": 4000, "stream": True}
    with running(build_worker_app(worker)) as address:
        request = urllib.request.Request(
            f"{address}/v1/chat/completions", json.dumps(body).encode()
        )
        with urllib.request.urlopen(request) as response:
            response.readline()
            assert worker.limiter.running == 1
        wait_for(lambda: worker.limiter.length == 0, 20)
        assert not worker.engine.scheduler.busy
        wait_for(
            lambda: not worker.engine.scheduler.running or not worker.engine.scheduler.busy, 20
        )
        text = urllib.request.urlopen(f"{address}/metrics").read().decode()
        assert 'mgm_requests_total{endpoint="chat",outcome="cancelled"} 1.0' in text


def test_metrics(address):
    start_time = time.perf_counter()
    body = {"model": "tiny", "messages": [MESSAGE], "max_tokens": 3, "temperature": 0}
    before = urllib.request.urlopen(f"{address}/metrics").read().decode()
    _, answer = ask(f"{address}/v1/chat/completions", body)
    after = urllib.request.urlopen(f"{address}/metrics").read().decode()

    def value(text: str, name: str) -> float:
        lines = [line for line in text.splitlines() if line.startswith(name)]
        return float(lines[0].split()[-1]) if lines else 0.0

    for name, change in (
        ("mgm_generation_tokens_total", answer["usage"]["completion_tokens"]),
        ("mgm_prompt_tokens_total", answer["usage"]["prompt_tokens"]),
        ('mgm_requests_total{endpoint="chat",outcome="ok"}', 1),
        ("mgm_time_to_first_token_seconds_count", 1),
        ("mgm_e2e_request_latency_seconds_count", 1),
    ):
        assert value(after, name) - value(before, name) == change, name
    seconds = value(after, "mgm_e2e_request_latency_seconds_sum") - value(
        before, "mgm_e2e_request_latency_seconds_sum"
    )
    assert 0 < seconds < time.perf_counter() - start_time
    # The same request again has draft tokens, and the same answer.
    again = [ask(f"{address}/v1/chat/completions", body | {"max_tokens": 30}) for _ in range(2)]
    assert again[0][1]["choices"] == again[1][1]["choices"]
    last = urllib.request.urlopen(f"{address}/metrics").read().decode()
    drafted = value(last, "mgm_spec_decode_num_draft_tokens")
    assert 10 < value(last, "mgm_spec_decode_num_accepted_tokens") <= drafted


def test_image_generation(folder, pipeline):
    """The images endpoint of the official client equals the pipeline itself."""
    from mgm.serve.tools.image_generation import ImageGenerator

    generator = ImageGenerator(str(pipeline), "cpu", steps=2)
    tools = WorkerTools("some/sdxl", lambda path: generator)
    worker = Worker(mgm.load(folder, device="cpu"), ("tiny",), tools=tools)
    with running(build_worker_app(worker)) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        assert [model.id for model in client.models.list()] == ["tiny", "sdxl"]
        generated = client.images.generate(
            model="sdxl", prompt="a cat", n=2, size="32x48", extra_body={"seed": 3}
        )
        images = [
            Image.open(io.BytesIO(base64.b64decode(one.b64_json or "")))
            for one in generated.data or []
        ]
        for number, image in enumerate(images):
            expected = generator.generate("a cat", 3 + number, (32, 48))
            assert image.tobytes() == expected.tobytes()
        assert len(images) == 2
        for change, field in (
            ({"model": "tiny"}, "model"),
            ({"prompt": ""}, "prompt"),
            ({"size": "7x7"}, "size"),
            ({"size": "huge"}, "size"),
            ({"n": 100}, "n"),
            ({"response_format": "url"}, "response_format"),
        ):
            body = {"model": "sdxl", "prompt": "a cat"} | change
            status, answer = ask(f"{address}/v1/images/generations", body)
            assert status in (400, 404)
            assert answer["error"]["param"] == field
        status, answer = ask(
            f"{address}/v1/chat/completions", image_message("x") | {"model": "sdxl"}
        )
        assert status in (400, 404)


def test_no_image_model(address):
    status, answer = ask(f"{address}/v1/images/generations", {"model": "tiny", "prompt": "a cat"})
    assert status == 404
    assert "generates no images" in answer["error"]["message"]


class Scripted(Worker):
    """A worker whose model output is given; everything else is real."""

    says = "Here: <h>a red cat</h> as you wished"

    async def stream(self, requests, start_time, slot):
        (request,) = requests
        self.last_prompt = request.prompt
        for word in (self.says[:9], self.says[9:]):
            yield 0, Chunk(word)
        yield 0, Chunk("", answer=Answer(self.says, (1, 2), "stop", 3))


def text_message(text: str) -> dict:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}]}


def png(content: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(content.partition(",")[2] or content)))


def test_image_prompt_of_an_answer(folder, pipeline):
    from mgm.serve.tools.image_generation import ImageGenerator

    loaded = []

    def load(path: str) -> ImageGenerator:
        loaded.append(path)
        return ImageGenerator(str(pipeline), "cpu", steps=1)

    worker = Scripted(
        mgm.load(folder, device="cpu"), ("tiny",), tools=WorkerTools("some/sdxl", load)
    )
    message = text_message("a cat please") | {"gen_image": True, "seed": 5}
    with running(build_worker_app(worker)) as address:
        url = f"{address}/v1/chat/completions"
        assert not loaded  # not used yet
        status, body = ask(url, message)
        assert status == 200
        assert worker.last_prompt.endswith(f"a cat please{GEN_SUFFIX}<|end|><|assistant|>")
        assert body["choices"][0]["message"]["content"] == worker.says
        (image,) = body["choices"][0]["message"]["images"]
        drawn = worker.tools.generate_image("a red cat", 5)
        assert (
            png(image["image_url"]["url"]).tobytes()
            == png(base64.b64encode(drawn).decode()).tobytes()
        )
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        chunks = list(
            client.chat.completions.create(
                model="tiny",
                messages=message["messages"],
                seed=5,
                stream=True,
                extra_body={"gen_image": True},
            )
        )
        assert "".join(p.choices[0].delta.content or "" for p in chunks) == worker.says
        (streamed_images,) = [
            p.choices[0].delta.images for p in chunks if p.choices[0].delta.model_extra
        ]
        assert streamed_images == [image]
        prompt = worker.engine.prompt(mgm.Request("a cat"))
        body = {"model": "tiny", "prompt": prompt, "gen_image": True, "images": []}
        *_, last = frames(f"{address}/worker_generate_stream", body)
        assert worker.last_prompt == worker.engine.prompt(mgm.Request("a cat" + GEN_SUFFIX))
        assert last["text"] == f"{prompt}Here: \nPrompt: a red cat\n"
        assert png(last["image"]).size == png(image["image_url"]["url"]).size
        assert len(loaded) == 1
        worker.says = "nothing to draw"
        assert "images" not in ask(url, message)[1]["choices"][0]["message"]


def test_gen_image_without_an_image_model(address):
    status, body = ask(f"{address}/v1/chat/completions", text_message("x") | {"gen_image": True})
    assert (status, body["error"]["param"]) == (400, "gen_image")
    body = {"model": "tiny", "prompt": "x", "gen_image": True}
    (frame,) = frames(f"{address}/worker_generate_stream", body)
    assert frame["error_code"]
    assert "--gen-model" in frame["text"]


@pytest.mark.heavy
def test_ocr(address, alone):
    """The answer equals the engine's to the question with the recognised texts."""
    sign = Image.open("images/sign.png")
    worker_says = ask(
        f"{address}/v1/chat/completions",
        {"model": "tiny", "temperature": 0, "use_ocr": True, "max_tokens": 9}
        | {"messages": [{"role": "user", "content": parts("what?", sign)}]},
    )[1]["choices"][0]["message"]["content"]
    texts = WorkerTools().recognize_text([sign])
    assert texts.startswith("\nReference OCR Token: ")
    question = f"{IMAGE_MARKER}\nwhat?{texts}"
    request = mgm.Request(question, images=[sign], max_new_tokens=9)
    assert worker_says == alone.answer([request])[0].text
    body = {
        "model": "tiny",
        "prompt": alone.prompt(mgm.Request(f"{IMAGE_MARKER}\nwhat?", images=[sign])),
        "images": [data_url(sign).partition(",")[2]],
        "use_ocr": True,
        "temperature": 0,
        "max_new_tokens": 9,
    }
    *_, last = frames(f"{address}/worker_generate_stream", body)
    assert last["text"] == body["prompt"] + worker_says
    assert WorkerTools().recognize_text([Image.new("RGB", (64, 64))]) == ""


def test_attribution(address, alone, pictures):
    messages = [
        {"role": "user", "content": parts("compare", *pictures)},
        {"role": "assistant", "content": "not the same"},
    ]
    status, body = ask(f"{address}/v1/attribution", {"model": "tiny", "messages": messages})
    assert status == 200
    attribution = decode_attribution(body)
    request = mgm.Request(f"{IMAGE_MARKER}\n{IMAGE_MARKER}\ncompare", images=pictures)
    for ours, theirs in zip(
        attribution, attribute_mining(alone, request, "not the same"), strict=True
    ):
        assert ours.mining == pytest.approx(theirs.mining, rel=1e-3, abs=1e-4)
        assert ours.answer == pytest.approx(theirs.answer, rel=1e-3, abs=1e-4)
        assert ours.view.size == theirs.view.size
    for wrong in (
        messages[:1],
        [{"role": "user", "content": "no image"}, messages[1]],
        [],
        "text",
        [{"role": "assistant", "content": 7}],
    ):
        status, body = ask(f"{address}/v1/attribution", {"model": "tiny", "messages": wrong})
        assert status == 400
        assert body["error"]["message"]
    status, _ = ask(f"{address}/v1/attribution", {"model": "other", "messages": messages})
    assert status == 404
