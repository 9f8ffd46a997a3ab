import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from mgm.data.text.conversation import number_images, prompt
from mgm.data.text.jinja import chat_template
from mgm.data.text.templates import TEMPLATES, get_template, version_template
from mgm.errors import MGMError
from tests.golden_files import golden_json


def test_every_published_template_is_there():
    assert set(golden_json("text/prompts.json")["templates"]) == set(TEMPLATES) - {
        "nano",
        "phi",
        "phi_3",
        "qwen_3",
    }


def test_image_numbers_equal_published_command_line():
    for record in golden_json("text/cli_multi_image.json"):
        template = get_template(record["version"])
        question = "<image>\n" * record["n_images"] + "Compare them."
        written = prompt(template, [(question, None)])
        assert written == record["prompt_before"]
        assert number_images(written) == record["prompt_after"]


def test_nano_prompt():
    turns = [("<image>\nWhat?", "A cat."), ("Sure?", None)]
    assert prompt(get_template("nano"), turns) == (
        "<s><|user|><image>\nWhat?<|end|><|assistant|>A cat.<|end|>"
        "<|user|>Sure?<|end|><|assistant|>"
    )


def test_prompts_of_later_language_models():
    turns = [("Hi", "Hello."), ("Who?", None)]
    assert prompt(get_template("qwen_3"), turns, system="Be kind.") == (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt(get_template("phi"), turns) == (
        "Instruct: Hi\nOutput: Hello.<|endoftext|>Instruct: Who?\nOutput:"
    )
    assert prompt(get_template("phi_3"), turns) == (
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
def test_jinja_writes_the_same_prompts(name):
    template = get_template(name)
    for turns in (
        [("What is it?", None)],
        [("<image>\nWhat is it?", "A cat.\n"), ('  "Sure"? {{x}} \\n é ', None)],
        [("<image>\n<image>\nCompare.", "Red, blue."), ("<image>\nAnd?", "Green"), ("?", None)],
    ):
        expected = prompt(template, [*template.examples, *turns])
        if template.numbers_images:
            expected = number_images(expected)
        assert render(template, messages_of(turns)) == expected
    closed = [("Hi", "Hello"), ("Bye", "See you")]
    expected = prompt(template, [*template.examples, *closed])
    assert render(template, messages_of(closed), generate=False) == expected


def test_jinja_places_images_and_system_text():
    template = get_template("vicuna_v1")
    image, text = {"type": "image"}, {"type": "text", "text": "What is it?"}
    first = render(template, [{"role": "user", "content": [image, text]}])
    assert first == prompt(template, [("<image>\nWhat is it?", None)])
    last = render(template, [{"role": "user", "content": [text, image]}])
    assert last == prompt(template, [("What is it?\n<image>", None)])
    two = render(template, [{"role": "user", "content": [image, image, text]}])
    assert "USER: Image 1:<image>\nImage 2:<image>\nWhat is it? ASSISTANT:" in two
    system = {"role": "system", "content": "Be brief."}
    for name in ("vicuna_v1", "llama_2", "llama_3", "chatml_direct"):
        template = get_template(name)
        written = render(template, [system, {"role": "user", "content": "Hi"}])
        assert written == prompt(template, [("Hi", None)], system="Be brief.")
        assert "Be brief." in written


def test_images_can_be_wrapped():
    template = get_template("gemma", wrap_images=True)
    written = prompt(template, [("<image>\nHi", None)])
    assert "<start_of_turn>user\n<im_start><image><im_end>\nHi" in written


def test_system_text_without_a_place():
    with pytest.raises(MGMError, match="no place for a system text"):
        prompt(get_template("gemma"), [("Hi", None)], system="Be brief.")


def test_unknown_names_list_the_known():
    for ask in (get_template, version_template):
        with pytest.raises(MGMError, match=r"'vicuna'.*vicuna_v1.*nano"):
            ask("vicuna")


def test_training_versions():
    assert version_template("v0") == version_template("v0.5") == "vicuna_v1"
    assert version_template("llama_3") == "llama_3"
