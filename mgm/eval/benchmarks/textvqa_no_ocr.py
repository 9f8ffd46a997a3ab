"""TextVQA without OCR tokens in the published prompt: the model has to read the image itself."""

from mgm.eval.benchmarks.textvqa import TextVQA, question_of_prompt
from mgm.eval.tasks.benchmark import PAPER
from mgm.eval.tasks.prompts import SHORT_ANSWER_PROMPT


class TextVQAWithoutOCR(TextVQA):
    """The paper's data, suffix and scorer, without the line of OCR tokens.

    A row of its own beside TextVQA's, whose published score has the tokens; the harnesses'
    protocols of TextVQA have none either.
    """

    name, title = "textvqa-no-ocr", "TextVQA (no OCR tokens)"
    protocols = (PAPER,)
    sources = {}  # noqa: RUF012

    def prompt(self, protocol: str, published: str) -> str:
        """See `TextVQA`."""
        return f"{question_of_prompt(published)}\n{SHORT_ANSWER_PROMPT}"
