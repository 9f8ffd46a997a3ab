"""Chat messages as conversations."""

import json

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from mgm.data.text.conversation import Message, chat_prompt
from mgm.data.text.jinja import chat_template
from mgm.data.text.templates import TEMPLATES
from mgm.serve.openai.errors import BadRequestError
from mgm.serve.openai.messages import MAX_IMAGES, ChatMessage, parse_chat

CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def conversation(*messages: dict):
    return parse_chat([ChatMessage.model_validate(one) for one in messages])


def image(url: object) -> dict:
    return {"type": "image_url", "image_url": url}


def text(content: str) -> dict:
    return {"type": "text", "text": content}


def test_images_and_text():
    chat = conversation(
        {"role": "developer", "content": [text("a"), text("b")]},
        {"role": "user", "content": [image({"url": "u1", "detail": "low"}), text("what?")]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "user", "content": [text("and"), image("u2"), image("u3"), text("<image>")]},
    )
    assert chat.sources == ("u1", "u2", "u3")
    assert chat.messages == (
        Message("system", "ab"),
        Message("user", "<image>\nwhat?"),
        Message("assistant", "no"),
        Message("user", "and\n<image>\n<image>\n< image>"),
    )


def test_suffix_is_appended_to_the_last_question():
    chat = conversation(
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
    )
    assert [one.text for one in chat.with_suffix("!").messages] == ["a", "b!", "c"]
    assert chat.with_suffix("") == chat


def test_number_of_images_is_limited():
    with pytest.raises(BadRequestError, match=f"at most {MAX_IMAGES}"):
        conversation({"role": "user", "content": [image("u")] * (MAX_IMAGES + 1)})


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompt_equals_the_chat_template(name):
    """With tools, roles and contents in every form."""
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "assistant", "content": "Hi, how can I help?"},
        {"role": "user", "content": [image("u"), text("weather?")]},
        {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "rain", "tool_call_id": "1"},
        {"role": "function", "content": "\U0001f327", "name": "f"},
        {"role": "assistant", "content": "It rains", "tool_calls": [CALL]},
        {"role": "user", "content": [text("sure?"), image("v")]},
    ]
    rendered, _ = render_jinja_template(
        [messages], chat_template=chat_template(TEMPLATES[name]), add_generation_prompt=True
    )
    written = chat_prompt(TEMPLATES[name], conversation(*messages).messages)
    assert rendered == [written]
    call = json.dumps({"name": "f", "arguments": {"a": 1}})
    assert f"<tool_call>\n{call}\n</tool_call>\n<tool_call>" in written
    assert "<tool_response>\nrain\n</tool_response>" in written
