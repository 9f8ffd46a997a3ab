"""LLaVA's question and answer files: JSONL with question_id, image and text."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mgm.eval.harness.question import Question, Response, SkippedQuestion, question_or_skip
from mgm.eval.tasks.files import read_jsonl, require_field, require_file, write_jsonl


def llava_questions(
    file: Path,
    images: Path,
    max_new_tokens: int = 128,
    prompt: Callable[[str], str] = lambda text: text,
    transform: Callable[[Question, int], Question] = lambda question, _: question,
    **more: Callable[[dict[str, Any]], Any],
) -> Iterator[Question | SkippedQuestion]:
    """Read a question file; damaged records are skipped.

    Args:
        file: the question file.
        images: folder of the images.
        max_new_tokens: maximum tokens of a response.
        prompt: changes the published prompt.
        transform: changes a question, such as to add its target; gets the index of its record too.
        **more: functions of a record for further fields of `Question`.

    Raises:
        MGMError: a file is missing.
    """
    require_file(images)

    def make(record: dict[str, Any], index: int) -> Question:
        where = f"{file}, record {index + 1}"
        image = record.get("image")
        fields: dict[str, Any] = {"metadata": {"prompt": require_field(record, "text", where)}}
        fields |= {name: make(record) for name, make in more.items()}
        question = Question(
            id=str(require_field(record, "question_id", where)),
            text=prompt(record["text"]),
            images=(images / image,) if image else (),
            max_new_tokens=max_new_tokens,
            group=str(image or record["question_id"]),
            **fields,
        )
        return transform(question, index)

    yield from line_questions(file, make)


def line_questions(
    file: Path, make: Callable[[dict[str, Any], int], Question]
) -> Iterator[Question | SkippedQuestion]:
    """Create questions from the records of a JSONL file.

    Args:
        file: file of the records.
        make: creates a question from a record and its index, which counts damaged lines too.

    Raises:
        MGMError: the file is missing.
    """
    damaged: list[SkippedQuestion] = []

    def skip(where: str, why: str) -> None:
        damaged.append(SkippedQuestion(f"{file.name}, {where}", why))

    for number, record in enumerate(read_jsonl(file, skip)):
        index = number + len(damaged)
        yield question_or_skip(f"{file.name}, record {index + 1}", partial(make, record, index))
    yield from damaged


def write_answers_file(path: Path, responses: Sequence[Response], model: str = "mgm") -> Path:
    """Write an answers file as LLaVA's scripts do, with the ids of the question file."""
    return write_jsonl(
        path,
        [
            {
                "question_id": original_id(
                    one.question.metadata.get("question_id", one.question.id)
                ),
                "prompt": one.question.metadata.get("prompt", one.question.text),
                "text": one.text,
                "answer_id": "",
                "model_id": model,
                "metadata": {},
            }
            for one in responses
        ],
    )


def original_id(name: str) -> str | int:
    """The id as in the question file: an int if it is a number."""
    return int(name) if name.isdigit() and str(int(name)) == name else name
