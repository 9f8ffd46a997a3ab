"""TextVQA with the published prompts, but without OCR tokens."""

from typing import ClassVar

from mgm.eval.benchmarks.textvqa import TextVQA, question_of_prompt
from mgm.eval.tasks.benchmark import PAPER
from mgm.eval.tasks.prompts import SHORT_ANSWER_PROMPT


class TextVQAWithoutOCR(TextVQA):
    """TextVQA as in the paper, without the line of OCR tokens in prompts.

    A benchmark of its own, since the paper's scores of TextVQA are with the tokens.
    """

    name, title = "textvqa-no-ocr", "TextVQA (no OCR tokens)"
    protocols = (PAPER,)
    sources: ClassVar = {}

    def prompt(self, protocol: str, published: str) -> str:
        """The published prompt without its OCR tokens."""
        return f"{question_of_prompt(published)}\n{SHORT_ANSWER_PROMPT}"
