"""Labels cover every answer with its end token, and nothing else: compared with an independent
computation. There, a supervised text is the difference of a conversation and its prompt, and token
boundaries follow from decoding all tokens before.
"""

import random
from dataclasses import replace
from functools import cache

import pytest
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mgm.data.sources.formats.record import parse_sample
from mgm.data.sources.sample import Sample
from mgm.data.text import conversation
from mgm.data.text.conversation import build_prompt
from mgm.data.text.encoding import encode
from mgm.data.text.templates import TEMPLATES, get_template
from mgm.data.text.tokenizer import leading_ids, load_tokenizer
from mgm.model.labels import IGNORE_INDEX
from tests.data.published_masks import PUBLISHED_IMAGE, Message, has_turn_separator, is_caption
from tests.golden_files import golden, golden_json

LLAMA = ("vicuna", "vicuna_nonlegacy", "vicuna_nonlegacy2", "mistral", "yi")
TOKENIZERS = (*LLAMA, "gemma", "llama3", "gptneox")
BYTES = {letter: bytes([byte]) for byte, letter in bytes_to_unicode().items()}
# Separators and roles of templates, and texts with unusual tokenisation.
WORDS = (
    *("USER:", "ASSISTANT:", "Human", "Assistant", "[INST]", "[/INST]", "<<SYS>>", "</s>", "<s>"),
    *("<|eot_id|>", "<|im_end|>", "<|im_start|>assistant", "<start_of_turn>model"),
    *("<end_of_turn>", "<eos>", "<unk>", "###", "###Human:", "<0x41>", "▁", "<imag", "<image"),
    *("停止", "£5", "🚗", "naïve", "e\u0301", "“quote”", "cat", "red", "12", "a."),
)
GAPS = (" ", "  ", "\n", "\n\n", "\t", "", " \n ", "\u3000")


@cache
def load(name: str) -> PreTrainedTokenizerBase:
    return load_tokenizer(golden(f"tokenizers/{name}"))


def random_text(draw: random.Random, longest: int = 6) -> str:
    words = [draw.choice(GAPS)]
    for _ in range(draw.randrange(longest)):
        words += [draw.choice(WORDS), draw.choice(GAPS)]
    return draw.choice(["", draw.choice(GAPS)]) if draw.random() < 0.1 else "".join(words)


def random_sample(draw: random.Random) -> Sample:
    messages = [
        {"from": ("human", "gpt")[index % 2], "value": random_text(draw)}
        for index in range(draw.randint(2, 7))
    ]
    for message in messages:
        for _ in range(draw.choice((0, 0, 1, 2))):
            position = draw.randint(0, len(message["value"]))
            message["value"] = message["value"][:position] + "<image>" + message["value"][position:]
    if draw.random() < 0.3:
        messages.insert(0, {"from": "gpt", "value": random_text(draw)})
    return sample_of(messages)


def sample_of(messages: list[Message]) -> Sample:
    images = sum(message["value"].count("<image>") for message in messages)
    return parse_sample({"conversations": messages, "image": ["x"] * images}, "here")


def text_parts(sample: Sample, name: str) -> list[tuple[str, bool]]:
    """The training text of a sample in parts, each with whether it is supervised."""
    template = get_template(name)
    turns = [tuple(text and image_first(text) for text in turn) for turn in sample.turns]
    if not sample.images:
        turns = list(sample.turns)
    if has_turn_separator(template):
        human, assistant = template.layout.question[0][:-2], template.layout.answer_open[:-1]
        messages = [(assistant, sample.initial_assistant_message)]
        for question, answer in turns:
            messages += [(human, question), (assistant, answer)]
        parts, learned = [(template.system + "\n\n", False)], False
        for role, text in messages:
            if text is not None:
                tag = "<Image><image></Image>" if name == "v0_mmtag" else "<image>"
                parts += [("###", learned), (f" {role}:", False)]
                learned = role == assistant
                parts.append((f" {text.replace('<image>', tag)}\n", learned))
        return [*parts, ("###", learned), (" ", False)]
    if is_caption(template):
        parts = []
        for question, caption in turns:
            parts.append(("<image>" * question.count("<image>"), False))
            if caption is not None:
                parts.append((caption + "\n", True))
        return parts
    template = replace(template, layout=template.training or template.layout)
    parts, written = [], ""
    for index, (question, answer) in enumerate(turns):
        before = [*turns[:index], (question, None)]
        asking = build_prompt(template, before)
        if answer is None:  # the generation prompt is not in the text
            asking = asking.removesuffix(template.layout.answer_open)
        parts.append((asking.removeprefix(written), False))
        written = asking
        if answer is not None:
            whole = build_prompt(template, turns[: index + 1])
            assert whole.startswith(asking)
            parts.append((whole.removeprefix(asking), True))
            written = whole
    return parts


def image_first(text: str) -> str:
    if text.count("<image>") == 1:
        before, after = text.split("<image>")
        return f"<image>\n{(before + after).strip()}".strip()
    return text.strip() if "<image>" in text else text


def spelled(tokenizer: PreTrainedTokenizerBase, token: int) -> bytes:
    """The text of a token, with spaces as spaces."""
    token_text = tokenizer.convert_ids_to_tokens(token)
    if token in tokenizer.added_tokens_decoder:
        return token_text.encode()
    if tokenizer.backend_tokenizer.model.byte_fallback:
        if token_text.startswith("<0x") and len(token_text) == 6:
            return bytes([int(token_text[3:5], 16)])
        return token_text.replace("▁", " ").encode()
    return b"".join(BYTES[letter] for letter in token_text)


def expected_labels(
    ids: list[int], parts: list[tuple[str, bool]], tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """Labels of `ids`, the tokens of the joined `parts`."""
    if tokenizer.backend_tokenizer.model.byte_fallback:
        parts = [(text.replace("▁", " "), learned) for text, learned in parts]
    text = "".join(text for text, _ in parts).encode()
    learned = [of_part for text, of_part in parts for _ in text.encode()]
    first = leading_ids(tokenizer)
    assert ids[: len(first)] == first
    labels, offset = [IGNORE_INDEX] * len(first), 0
    for token in ids[len(first) :]:
        spelling = b"<image>" if token == PUBLISHED_IMAGE else spelled(tokenizer, token)
        if not text.startswith(spelling, offset):  # sentencepiece adds a leading space to each part
            assert spelling.startswith(b" "), (text[offset : offset + 20], spelling)
            spelling = spelling[1:]
            assert text.startswith(spelling, offset), (text[offset : offset + 20], spelling)
        at = min(offset, len(text) - 1)
        labels.append(token if learned[at] and token != PUBLISHED_IMAGE else IGNORE_INDEX)
        offset += len(spelling)
    assert offset == len(text)
    return labels


def check(sample: Sample, version: str, tokenizer: PreTrainedTokenizerBase) -> None:
    segments, parts = sample.segments(get_template(version)), text_parts(sample, version)
    assert "".join(one.text for one in segments) == "".join(text for text, _ in parts)
    ids, labels = encode(segments, tokenizer, PUBLISHED_IMAGE, 1)
    assert labels == expected_labels(ids, parts, tokenizer), (version, sample)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_golden_conversations(name):
    for messages in golden_json("text/preprocess.json")["conversations"].values():
        for version in TEMPLATES:
            check(sample_of(messages), version, load(name))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_random_conversations(name):
    draw = random.Random(0)
    for _ in range(20):
        for version in TEMPLATES:
            check(random_sample(draw), version, load(name))


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_system_prompt_is_written_and_has_no_labels(name):
    """It replaces the template's; layouts without one put it before the question."""
    template = get_template(name)
    layout = template.training or template.layout
    turns = (("<image>\nwhat?", "a cat"), ("and?", "a dog"))
    sample = Sample(turns, ("x",), system="Speak like a pirate.")
    segments = sample.segments(template)
    plain = Sample(turns, ("x",)).segments(template)
    learned = [segment for segment in segments if segment.supervised]
    assert learned == [segment for segment in plain if segment.supervised]
    text = "".join(segment.text for segment in segments)
    if layout.drops_questions:  # captions: only the images of questions are written
        assert text == "".join(segment.text for segment in plain)
        return
    assert text.count("Speak like a pirate.") == 1
    assert template.system == "" or template.system not in text
    _, _, after = text.partition("Speak like a pirate.")
    if not layout.system:
        assert after.startswith("\n\n" + layout.image)
    if template.training is None and not template.examples:
        messages = [conversation.Message("system", "Speak like a pirate.")]
        for question, answer in turns:
            messages.append(conversation.Message("user", question))
            messages.append(conversation.Message("assistant", answer))
        assert text == conversation.chat_prompt(template, messages, add_generation_prompt=False)
