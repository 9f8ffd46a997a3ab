"""TextVQA: reading text in photographs, scored by VQA accuracy."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response, SkippedQuestion
from mgm.eval.metrics.vqa_accuracy import evalai_answer, vlmevalkit_answer, vqa_accuracy
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, VLMEVALKIT, Benchmark, row_id
from mgm.eval.tasks.dataset_source import HubFiles, RequiredFile, Table
from mgm.eval.tasks.files import as_text_list, load_json
from mgm.eval.tasks.llava_format import llava_questions, write_answers_file
from mgm.eval.tasks.prompts import SHORT_ANSWER_PROMPT

OCR_PREFIX = "Reference OCR token:"
QUESTIONS_FILE, ANSWERS_FILE = "llava_textvqa_val_v051_ocr.jsonl", "TextVQA_0.5.1_val.json"


class TextVQA(Benchmark):
    """VQA accuracy; the published prompts contain OCR tokens, those of the harnesses do not."""

    name, title, folder = "textvqa", "TextVQA", "textvqa"
    splits = scored_splits = ("val",)
    sizes: ClassVar = {"val": 5000}
    protocols = (PAPER, LMMS_EVAL, VLMEVALKIT)
    sources: ClassVar = {
        ("val", LMMS_EVAL): HubFiles("lmms-lab-encoder/textvqa", "**/validation-*.parquet", 5000),
        ("val", VLMEVALKIT): Table("TextVQA_VAL.tsv", 5000, "b233b31f551bbf4056f2f955da3a92cd"),
    }
    also_published = True

    def published_files(self, split: str) -> list[RequiredFile]:
        """LLaVA's question file, targets and images."""
        site = "https://dl.fbaipublicfiles.com/textvqa"
        return [
            RequiredFile(QUESTIONS_FILE, "eval.zip of LLaVA's docs/Evaluation.md"),
            RequiredFile(ANSWERS_FILE, "TextVQA", f"{site}/data/TextVQA_0.5.1_val.json"),
            RequiredFile(
                "train_images", "TextVQA, unpacked", f"{site}/images/train_val_images.zip"
            ),
        ]

    def published_questions(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """Prompts of LLaVA's question file, with OCR tokens; ten human answers of TextVQA."""
        targets = {
            (one["image_id"], one["question"].lower()): one["answers"]
            for one in load_json(folder / ANSWERS_FILE)["data"]
        }

        def target_of(record: dict) -> list[str]:
            key = (record["question_id"], question_of_prompt(record["text"]).lower())
            if key not in targets:
                raise MGMError(
                    f"{folder / ANSWERS_FILE}: no answers to {key[1]!r:.100} about {key[0]}; "
                    "use version 0.5.1 of both files"
                )
            return targets[key]

        yield from llava_questions(
            folder / QUESTIONS_FILE,
            folder / "train_images",
            prompt=partial(self.prompt, protocol),
            transform=_with_unique_id,
            target=target_of,
        )

    def prompt(self, protocol: str, published: str) -> str:
        """The prompt of a protocol, given the published prompt."""
        return (
            published
            if protocol == PAPER
            else _harness_prompt(protocol, question_of_prompt(published))
        )

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """The bare question of the harnesses, without OCR tokens."""
        answers = row["answer" if protocol == VLMEVALKIT else "answers"]
        return Question(
            id=str(number - 1),
            text=_harness_prompt(protocol, row["question"]),
            images=images,
            target=as_text_list(answers),
            group=images[0].name,
            metadata={"question_id": row_id(row, number)},
        )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """VQA accuracy; VLMEvalKit normalises answers in its own way."""
        normal = vlmevalkit_answer if protocol == VLMEVALKIT else evalai_answer
        return vqa_accuracy(response.text, response.question.target, normal)

    def submission(self, responses: Sequence[Response], folder: Path, split: str) -> list[Path]:
        """The answers file of the published evaluator."""
        return [write_answers_file(folder / "merge.jsonl", responses)]


def question_of_prompt(prompt: str) -> str:
    """Extract the question from a prompt of the published file.

    Raises:
        MGMError: unknown format.
    """
    lines = prompt.split("\n")
    if prompt.startswith("OCR tokens: "):
        match = re.search(r"Question: (.*?) Short answer:", prompt, re.DOTALL)
        if match:
            return match[1]
    elif f"{OCR_PREFIX} " in prompt and len(lines) == 3:
        return lines[1] if prompt.startswith(OCR_PREFIX) else lines[0]
    elif len(lines) == 2:
        return lines[0]
    raise MGMError(f"no question in the prompt {prompt!r:.100}")


def _with_unique_id(question: Question, index: int) -> Question:
    """Use the index as id: in the file, the questions about an image share their id."""
    return replace(
        question, id=f"{index}", metadata={**question.metadata, "question_id": question.id}
    )


def _harness_prompt(protocol: str, question: str) -> str:
    # Compat: `str.capitalize` of lmms-eval lowers all letters but the first.
    return (
        question.capitalize() if protocol == LMMS_EVAL else question
    ) + f"\n{SHORT_ANSWER_PROMPT}"
