"""LLaVA-Bench in the wild: free answers, compared with those of a language model that saw texts."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question
from mgm.eval.tasks.benchmark import PAPER, Benchmark
from mgm.eval.tasks.dataset_source import Needed
from mgm.eval.tasks.files import read_lines
from mgm.eval.tasks.llava_format import llava_questions, write_answers

RULE = (
    "We would like to request your feedback on the performance of two AI assistants in response to "
    "the user question displayed above. The user asks the question on observing an image. For your "
    "reference, the visual content in the image is represented with caption(s) describing the "
    "image.\n"
    "Please rate the helpfulness, relevance, accuracy, level of details of their responses. Each "
    "assistant receives an overall score on a scale of 1 to 10, where a higher score indicates "
    "better overall performance.\n"
    "Please first output a single line containing only two values indicating the scores for "
    "Assistant 1 and 2, respectively. The two scores are separated by a space."
)


class LLaVABench(Benchmark):
    """The judge's marks for answers, in per cent of those for the reference's."""

    name, title, folder = "llava-bench", "LLaVA-Bench (wild)", "llava-bench-in-the-wild"
    metric = "relative marks"
    splits = scored = ("test",)
    sizes = {"test": 60}  # noqa: RUF012
    judged = (PAPER,)

    def needs(self, split: str) -> list[Needed]:
        """Questions, images, captions and reference answers."""
        hub = "the data set liuhaotian/llava-bench-in-the-wild of the Hugging Face hub"
        names = ("questions.jsonl", "context.jsonl", "answers_gpt4.jsonl", "images")
        return [Needed(name, hub) for name in names]

    def published(self, folder: Path, split: str, protocol: str) -> Iterator[Question]:
        """See `Benchmark`."""
        captions = {one["image"]: one["caption"] for one in read_lines(folder / "context.jsonl")}
        references = {
            str(one["question_id"]): one["text"]
            for one in read_lines(folder / "answers_gpt4.jsonl")
        }
        read = llava_questions(
            folder / "questions.jsonl",
            folder / "images",
            1024,
            category=lambda record: str(record.get("category", "")),
        )
        for question in read:
            if question.id not in references:
                raise MGMError(f"{folder / 'answers_gpt4.jsonl'}: has no question {question.id}")
            yield replace(
                question,
                answer=references[question.id],
                facts={**question.facts, "caption": captions.get(question.group, "")},
            )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """The marks of the answer by those of the reference; by rules, the words they share.

        Raises:
            MGMError: the judge does not answer, or gives no marks.
        """
        question = answered.question
        if not judge.is_model:
            return shared_words(answered.text, question.answer)
        said = judge.ask(
            f"[Context]\n{question.facts['caption']}\n\n[Question]\n{question.facts['prompt']}\n\n"
            f"[Assistant 1]\n{question.answer}\n\n[End of Assistant 1]\n\n[Assistant 2]\n"
            f"{answered.text}\n\n[End of Assistant 2]\n\n[System]\n{RULE}\n\n",
            temperature=0.2,
            max_tokens=1024,
        )
        marks = re.findall(r"\d+(?:\.\d+)?", said.split("\n")[0])
        if len(marks) != 2 or not float(marks[0]):
            raise MGMError(f"question {question.id}: the judge says {said!r:.60}, no two marks")
        return float(marks[1]) / float(marks[0])

    def parts(
        self, questions: Sequence[Question], credits: Sequence[float]
    ) -> dict[str, tuple[float, int]]:
        """Of every kind of question."""
        own: dict[str, list[float]] = defaultdict(list)
        for question, credit in zip(questions, credits, strict=True):
            own[question.category].append(credit)
        return {name: (100 * sum(c) / len(c), len(c)) for name, c in sorted(own.items()) if name}

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """The published answers."""
        return [write_answers(folder / "answers.jsonl", answered)]


def shared_words(text: str, reference: str) -> float:
    """F1 of the words of two texts."""
    own, other = (re.findall(r"\w+", one.lower()) for one in (text, reference))
    if not own or not other:
        return float(own == other)
    rest, common = list(other), 0
    for word in own:
        if word in rest:
            rest.remove(word)
            common += 1
    return 2 * common / (len(own) + len(other))
