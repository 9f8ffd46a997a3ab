"""TextVQA: texts in photographs, answers as ten people gave them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question, SkippedQuestion
from mgm.eval.metrics.vqa_accuracy import agreement, normal_answer, vlmevalkit_answer
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, VLMEVALKIT, Benchmark, row_name
from mgm.eval.tasks.dataset_source import HubFiles, Needed, Table
from mgm.eval.tasks.files import read_json, text_list
from mgm.eval.tasks.llava_format import llava_questions, write_answers
from mgm.eval.tasks.prompts import SINGLE_WORD

OCR = "Reference OCR token:"
QUESTIONS, ANSWERS = "llava_textvqa_val_v051_ocr.jsonl", "TextVQA_0.5.1_val.json"


class TextVQA(Benchmark):
    """Asked with OCR tokens in the published protocol, without them in others'."""

    name, title, folder = "textvqa", "TextVQA", "textvqa"
    splits = scored = ("val",)
    sizes: ClassVar = {"val": 5000}
    protocols = (PAPER, LMMS_EVAL, VLMEVALKIT)
    sources: ClassVar = {
        ("val", LMMS_EVAL): HubFiles("lmms-lab-encoder/textvqa", "**/validation-*.parquet", 5000),
        ("val", VLMEVALKIT): Table("TextVQA_VAL.tsv", 5000, "b233b31f551bbf4056f2f955da3a92cd"),
    }
    also_published = True

    def needs(self, split: str) -> list[Needed]:
        """Questions, answers and images."""
        site = "https://dl.fbaipublicfiles.com/textvqa"
        return [
            Needed(QUESTIONS, "eval.zip of LLaVA's docs/Evaluation.md"),
            Needed(ANSWERS, "TextVQA", f"{site}/data/TextVQA_0.5.1_val.json"),
            Needed("train_images", "TextVQA, unpacked", f"{site}/images/train_val_images.zip"),
        ]

    def published(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """See `Benchmark`."""
        answers = {
            (one["image_id"], one["question"].lower()): one["answers"]
            for one in read_json(folder / ANSWERS)["data"]
        }

        def answer(record: dict) -> list[str]:
            key = (record["question_id"], bare_question(record["text"]).lower())
            if key not in answers:
                raise MGMError(
                    f"{folder / ANSWERS}: has no answers to {key[1]!r:.100} about {key[0]}; both "
                    "files have to be of version 0.5.1"
                )
            return answers[key]

        yield from llava_questions(
            folder / QUESTIONS,
            folder / "train_images",
            text=partial(self.prompt, protocol),
            complete=_numbered,
            answer=answer,
        )

    def prompt(self, protocol: str, published: str) -> str:
        """What is asked instead of a published prompt."""
        return published if protocol == PAPER else _wording(protocol, bare_question(published))

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        answers = row["answer" if protocol == VLMEVALKIT else "answers"]
        return Question(
            id=str(number - 1),
            text=_wording(protocol, row["question"]),
            images=images,
            answer=text_list(answers),
            group=images[0].name,
            facts={"question_id": row_name(row, number)},
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Agreement with ten people; VLMEvalKit brings answers into another form than EvalAI."""
        normal = vlmevalkit_answer if protocol == VLMEVALKIT else normal_answer
        return agreement(answered.text, answered.question.answer, normal)

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """What the published evaluator reads."""
        return [write_answers(folder / "merge.jsonl", answered)]


def bare_question(prompt: str) -> str:
    """The question in a prompt of the published file.

    Raises:
        MGMError: there is none.
    """
    lines = prompt.split("\n")
    if prompt.startswith("OCR tokens: "):
        found = re.search(r"Question: (.*?) Short answer:", prompt, re.DOTALL)
        if found:
            return found[1]
    elif f"{OCR} " in prompt and len(lines) == 3:
        return lines[1] if prompt.startswith(OCR) else lines[0]
    elif len(lines) == 2:
        return lines[0]
    raise MGMError(f"there is no question in the prompt {prompt!r:.100}")


def _numbered(question: Question, index: int) -> Question:
    """An image may have several questions: the id of the file alone is not one."""
    return replace(question, id=f"{index}", facts={**question.facts, "question_id": question.id})


def _wording(protocol: str, question: str) -> str:
    # lmms-eval makes all letters but the first small.
    return (question.capitalize() if protocol == LMMS_EVAL else question) + f"\n{SINGLE_WORD}"
