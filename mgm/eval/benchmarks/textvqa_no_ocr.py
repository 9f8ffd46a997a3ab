"""TextVQA without OCR tokens in the published prompt: the model has to read the image itself."""

from typing import ClassVar

from mgm.eval.benchmarks.textvqa import TextVQA, bare_question
from mgm.eval.tasks.benchmark import PAPER
from mgm.eval.tasks.prompts import SINGLE_WORD


class TextVQAWithoutOCR(TextVQA):
    """The paper's data, suffix and scorer, without the line of OCR tokens.

    A row of its own beside TextVQA's, whose published score has the tokens; the harnesses'
    protocols of TextVQA have none either.
    """

    name, title = "textvqa-no-ocr", "TextVQA (no OCR tokens)"
    protocols = (PAPER,)
    sources: ClassVar = {}

    def prompt(self, protocol: str, published: str) -> str:
        """See `TextVQA`."""
        return f"{bare_question(published)}\n{SINGLE_WORD}"
