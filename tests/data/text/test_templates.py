import random

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from mgm.data.text.conversation import Message, build_prompt, chat_prompt, number_images
from mgm.data.text.jinja import chat_template
from mgm.data.text.templates import TEMPLATES, get_template, version_template
from mgm.errors import MGMError
from tests.golden_files import golden_json


def test_published_templates():
    assert set(golden_json("text/prompts.json")["templates"]) == set(TEMPLATES) - {
        "nano",
        "phi",
        "phi_3",
        "qwen_3",
    }


def test_image_numbers_equal_published():
    for record in golden_json("text/cli_multi_image.json"):
        template = get_template(record["version"])
        question = "<image>\n" * record["n_images"] + "Compare them."
        written = build_prompt(template, [(question, None)])
        assert written == record["prompt_before"]
        assert number_images(written) == record["prompt_after"]


def test_nano_prompt():
    turns = [("<image>\nWhat?", "A cat."), ("Sure?", None)]
    assert build_prompt(get_template("nano"), turns) == (
        "<s><|user|><image>\nWhat?<|end|><|assistant|>A cat.<|end|>"
        "<|user|>Sure?<|end|><|assistant|>"
    )


def test_prompts_of_later_language_models():
    turns = [("Hi", "Hello."), ("Who?", None)]
    assert build_prompt(get_template("qwen_3"), turns, system="Be kind.") == (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert build_prompt(get_template("phi"), turns) == (
        "Instruct: Hi\nOutput: Hello.<|endoftext|>Instruct: Who?\nOutput:"
    )
    assert build_prompt(get_template("phi_3"), turns) == (
        "<|user|>\nHi<|end|>\n<|assistant|>\nHello.<|end|>\n<|user|>\nWho?<|end|>\n<|assistant|>\n"
    )


def messages_of(turns):
    messages = []
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    return messages


def render(template, messages, generate=True):
    rendered, _ = render_jinja_template(
        [messages], chat_template=chat_template(template), add_generation_prompt=generate
    )
    return rendered[0]


@pytest.mark.parametrize("name", TEMPLATES)
def test_chat_template_renders_the_same_prompts(name):
    template = get_template(name)
    for turns in (
        [("What is it?", None)],
        [("<image>\nWhat is it?", "A cat.\n"), ('  "Sure"? {{x}} \\n é ', None)],
        [("<image>\n<image>\nCompare.", "Red, blue."), ("<image>\nAnd?", "Green"), ("?", None)],
    ):
        expected = build_prompt(template, [*template.examples, *turns])
        if template.numbers_images:
            expected = number_images(expected)
        assert render(template, messages_of(turns)) == expected
    closed = [("Hi", "Hello"), ("Bye", "See you")]
    expected = build_prompt(template, [*template.examples, *closed])
    assert render(template, messages_of(closed), generate=False) == expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_chat_template_with_messages_in_any_order(name):
    """Equal to `chat_prompt`, for all orders of roles."""
    template, draw = get_template(name), random.Random(name)
    texts = ["", "Be brief.", "Hi\n", "<image>\nWhat?", "<image>\n<image>\nBoth?", "  é {{x}} "]
    roles = ["system", "user", "user", "assistant", "assistant"]
    for _ in range(150):
        count = draw.randint(1, 6)
        messages = [Message(draw.choice(roles), draw.choice(texts)) for _ in range(count)]
        plain = [{"role": one.role, "content": one.text} for one in messages]
        for generate in (True, False):
            expected = chat_prompt(template, messages, add_generation_prompt=generate)
            assert render(template, plain, generate) == expected
        for text in (one.text for one in messages if "<image>" not in one.text):
            assert text in expected


def test_unsupported_orders_are_merged():
    def written(name: str, *messages: tuple[str, str], **more: bool) -> str:
        template = get_template(name)
        text = chat_prompt(template, [Message(*one) for one in messages], **more)
        start = template.layout.system.replace("{}", template.system) if template.system else ""
        return text if template.layout.system_in_question else text.removeprefix(start)

    be_brief, hi, hello = ("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")
    assert written("vicuna_v1", hello, hi) == "ASSISTANT: Hello</s>USER: Hi ASSISTANT:"
    assert written("vicuna_v1", hi, hi) == "USER: Hi\nHi ASSISTANT:"
    assert written("vicuna_v1", hi, hello, hello, hi) == (
        "USER: Hi ASSISTANT: Hello\nHello</s>USER: Hi ASSISTANT:"
    )
    assert written("vicuna_v1", hi, hello, be_brief, hi) == (
        "USER: Hi ASSISTANT: Hello</s>USER: Be brief.\n\nHi ASSISTANT:"
    )
    assert written("vicuna_v1", be_brief) == "Be brief. ASSISTANT:"
    assert written("nano", be_brief) == "<s><|user|>Be brief.<|end|><|assistant|>"
    assert written("llama_2", be_brief) == ("[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n [/INST]")
    assert written("phi_3", be_brief, hi, hello, hello, be_brief, hi) == (
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello<|end|>\n"
        "<|assistant|>\nHello<|end|>\n<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n"
        "<|assistant|>\n"
    )
    assert written("vicuna_v1", hi, hello, continue_final_message=True) == (
        "USER: Hi ASSISTANT: Hello"
    )
    with pytest.raises(MGMError, match="last message must have role 'assistant'"):
        written("vicuna_v1", hi, continue_final_message=True)


def test_continue_final_message_equals_transformers():
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    for name in set(TEMPLATES) - {"plain", "v0_plain"}:
        template = get_template(name)
        rendered, _ = render_jinja_template(
            [messages], chat_template=chat_template(template), continue_final_message=True
        )
        ours = [Message(one["role"], one["content"]) for one in messages]
        assert rendered == [chat_prompt(template, ours, continue_final_message=True)]


def test_chat_template_with_images_and_system_prompt():
    template = get_template("vicuna_v1")
    image, text = {"type": "image"}, {"type": "text", "text": "What is it?"}
    first = render(template, [{"role": "user", "content": [image, text]}])
    assert first == build_prompt(template, [("<image>\nWhat is it?", None)])
    last = render(template, [{"role": "user", "content": [text, image]}])
    assert last == build_prompt(template, [("What is it?\n<image>", None)])
    two = render(template, [{"role": "user", "content": [image, image, text]}])
    assert "USER: Image 1:<image>\nImage 2:<image>\nWhat is it? ASSISTANT:" in two
    system = {"role": "system", "content": "Be brief."}
    for name in ("vicuna_v1", "llama_2", "llama_3", "chatml_direct"):
        template = get_template(name)
        written = render(template, [system, {"role": "user", "content": "Hi"}])
        assert written == build_prompt(template, [("Hi", None)], system="Be brief.")
        assert "Be brief." in written


def test_wrapped_images():
    template = get_template("gemma", wrap_images=True)
    written = build_prompt(template, [("<image>\nHi", None)])
    assert "<start_of_turn>user\n<im_start><image><im_end>\nHi" in written


def test_system_prompt_of_a_template_without_one():
    with pytest.raises(MGMError, match="takes no system prompt"):
        build_prompt(get_template("gemma"), [("Hi", None)], system="Be brief.")


def test_unknown_names():
    for ask in (get_template, version_template):
        with pytest.raises(MGMError, match=r"'vicuna'.*vicuna_v1.*nano"):
            ask("vicuna")


def test_training_versions():
    assert version_template("v0") == version_template("v0.5") == "vicuna_v1"
    assert version_template("llama_3") == "llama_3"
