"""Chat features: any order of messages, structured output, biases and penalties."""

import json

import pytest

import mgm
from mgm.data.text.conversation import Message, chat_prompt
from mgm.serve.worker.app import build_worker_app
from mgm.serve.worker.worker import Limits, Worker
from tests.serve.servers import ask, running

openai = pytest.importorskip("openai")

USER = {"role": "user", "content": "hi"}
SYSTEM = {"role": "system", "content": "Be brief."}
SETTINGS = {"model": "tiny", "temperature": 0, "max_tokens": 12}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module")
def worker(tiny_folder):
    return Worker(mgm.load(tiny_folder, device="cpu"), ("tiny",), Limits(max_tokens=300))


@pytest.fixture(scope="module")
def address(worker):
    with running(build_worker_app(worker)) as where:
        yield where


@pytest.fixture
def client(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize(
    "messages",
    [
        [assistant("Hi, how can I help?"), USER],
        [USER, assistant("Hi"), SYSTEM, USER],
        [USER, assistant("one"), assistant("two"), USER],
        [USER, USER],
        [SYSTEM],
        [SYSTEM, SYSTEM, USER],
        [USER, assistant("Hi")],
        [assistant("Hi")],
        [{"role": "tool", "content": "rain", "tool_call_id": "1"}],
    ],
)
def test_messages_in_any_order(address, worker, messages):
    """The answer equals that to the prompt of the conversation template."""
    status, answer = ask(f"{address}/v1/chat/completions", SETTINGS | {"messages": messages})
    assert status == 200
    written = chat_prompt(
        worker.engine.template,
        [
            Message("user", "<tool_response>\nrain\n</tool_response>")
            if one["role"] == "tool"
            else Message(one["role"], one["content"])
            for one in messages
        ],
    )
    request = mgm.Request(written, raw=True, max_new_tokens=12)
    (expected,) = worker.engine.answer([request])
    assert answer["choices"][0]["message"]["content"] == expected.text
    assert answer["usage"]["prompt_tokens"] == expected.prompt_tokens


def test_continue_final_message(client, worker):
    (whole,) = worker.engine.answer([mgm.Request("hi", max_new_tokens=12)])
    begin = whole.text[:5]
    messages = [USER, assistant(begin)]
    more = {"continue_final_message": True, "add_generation_prompt": False}
    completion = client.chat.completions.create(**SETTINGS, messages=messages, extra_body=more)
    prompt = worker.engine.prompt(mgm.Request("hi")) + begin
    request = mgm.Request(prompt, raw=True, max_new_tokens=12, continues_text=True)
    (expected,) = worker.engine.answer([request])
    assert completion.choices[0].message.content == expected.text


SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "n": {"enum": [1, 2]}},
    "required": ["ok", "n"],
    "additionalProperties": False,
}


def test_response_format(client):
    settings = SETTINGS | {"messages": [USER], "temperature": 1, "max_tokens": 300, "n": 3}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    completion = client.chat.completions.create(**settings, seed=1, response_format=form)
    for choice in completion.choices:
        answer = json.loads(choice.message.content)
        assert isinstance(answer["ok"], bool)
        assert answer["n"] in (1, 2)
    for given, valid in (
        ({"choice": ["yes", "no"]}, lambda text: text in ("yes", "no")),
        ({"regex": "[ab]{3}c"}, lambda text: len(text) == 4 and text.endswith("c")),
        ({"json": {"enum": ["x"]}}, lambda text: text == '"x"'),
        ({"grammar": 'start: "a" | "b"'}, lambda text: text in ("a", "b")),
    ):
        body = {"structured_outputs": given}
        streamed: dict[int, str] = {}
        for chunk in client.chat.completions.create(**settings, extra_body=body, stream=True):
            for choice in chunk.choices:
                text = choice.delta.content or ""
                streamed[choice.index] = streamed.get(choice.index, "") + text
        assert len(streamed) == 3
        assert all(valid(text) for text in streamed.values()), (given, streamed)


@pytest.mark.parametrize(
    "given",
    [
        {"regex": "(" * 50},
        {"json": {"type": "nothing"}},
        {"json": "{"},
        {"grammar": "start: missing"},
        {"choice": [""]},
    ],
)
def test_invalid_response_format(address, given):
    body = SETTINGS | {"messages": [USER], "structured_outputs": given}
    for stream in (False, True):
        status, answer = ask(f"{address}/v1/chat/completions", body | {"stream": stream})
        assert status == 400, answer
        assert next(iter(given)) in answer["error"]["message"]


def test_logit_bias_and_penalties(client, worker):
    (plain,) = worker.engine.answer([mgm.Request("hi", max_new_tokens=6)])
    first = plain.tokens[0]
    settings = SETTINGS | {"messages": [USER], "max_tokens": 6}
    banned = client.chat.completions.create(**settings, logit_bias={str(first): -100})
    (expected,) = worker.engine.answer(
        [mgm.Request("hi", max_new_tokens=6, logit_bias={first: -100})]
    )
    assert banned.choices[0].message.content == expected.text != plain.text
    forced = client.chat.completions.create(**settings, logit_bias={str(first): 100})
    (expected,) = worker.engine.answer(
        [mgm.Request("hi", max_new_tokens=6, logit_bias={first: 100})]
    )
    assert forced.choices[0].message.content == expected.text
    assert set(expected.tokens) == {first}
    varied = client.chat.completions.create(**settings, presence_penalty=2, frequency_penalty=2)
    (expected,) = worker.engine.answer(
        [mgm.Request("hi", max_new_tokens=6, presence_penalty=2, frequency_penalty=2)]
    )
    assert varied.choices[0].message.content == expected.text
