"""Instruction suffixes of published prompts, and comparison of prompts without them."""

import re

SHORT_ANSWER_PROMPT = "Answer the question using a single word or phrase."
SHORT_ANSWER_SUFFIX = f"\n{SHORT_ANSWER_PROMPT}"
LETTER_PROMPT = "Answer with the option's letter from the given choices directly."
UNANSWERABLE_PROMPT = "When the provided information is insufficient, respond with 'Unanswerable'."
_OCR_TOKENS = re.compile(r"\n\s*reference ocr tokens?:", re.IGNORECASE)
# Suffixes of questions in published files.
INSTRUCTIONS = (SHORT_ANSWER_PROMPT, LETTER_PROMPT, UNANSWERABLE_PROMPT, "Please answer yes or no.")
_MARKER = re.compile(r"<image[^>]{0,8}>")


def one_contains_other(text: str, other: str) -> bool:
    """Whether one of two texts contains the other, by letters and digits; false for empty texts."""
    first, second = alphanumeric(text), alphanumeric(other)
    return bool(first and second) and (first in second or second in first)


def is_same_prompt(text: str, other: str) -> bool:
    """Whether two prompts are of the same question.

    Published prompts of a question differ in instructions, OCR tokens, and the order of hints and
    choices: one has to contain the other's question, or all of its words.
    """
    first, second = strip_instructions(text), strip_instructions(other)
    if one_contains_other(text, second) or one_contains_other(first, other):
        return True
    words, others = set(_words(first)), set(_words(second))
    return bool(words and others) and (words <= others or others <= words)


def strip_instructions(prompt: str) -> str:
    """Remove OCR tokens and instructions, unless nothing would remain."""
    bare = _OCR_TOKENS.split(prompt, maxsplit=1)[0]
    for instruction in INSTRUCTIONS:
        bare = bare.replace(instruction, "")
    return bare if alphanumeric(bare) else prompt


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", _MARKER.sub(" ", text).casefold())


def alphanumeric(text: str) -> str:
    """Letters and digits of a text, without image markers: harnesses differ in the rest."""
    return "".join(filter(str.isalnum, _MARKER.sub("", text).casefold()))
