"""Question files as LLaVA published them: JSON lines with question_id, image and text."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mgm.eval.harness.question import Question, Response, SkippedQuestion, question_or_skip
from mgm.eval.tasks.files import field, read_jsonl, require_file, write_jsonl


def llava_questions(
    file: Path,
    images: Path,
    max_new_tokens: int = 128,
    text: Callable[[str], str] = lambda text: text,
    complete: Callable[[Question, int], Question] = lambda question, _: question,
    **more: Callable[[dict[str, Any]], Any],
) -> Iterator[Question | SkippedQuestion]:
    """Questions, each about one image; a record that is none is skipped.

    Args:
        file: of the questions.
        images: their folder.
        max_new_tokens: of an answer.
        text: what is asked instead of a text.
        complete: adds what other files know, by the question and its record's index.
        **more: further fields of `Question`, made of a record.

    Raises:
        MGMError: a file is missing.
    """
    require_file(images)

    def make(record: dict[str, Any], index: int) -> Question:
        where = f"{file}, record {index + 1}"
        image = record.get("image")
        fields: dict[str, Any] = {"metadata": {"prompt": field(record, "text", where)}}
        fields |= {name: make(record) for name, make in more.items()}
        question = Question(
            id=str(field(record, "question_id", where)),
            text=text(record["text"]),
            images=(images / image,) if image else (),
            max_new_tokens=max_new_tokens,
            group=str(image or record["question_id"]),
            **fields,
        )
        return complete(question, index)

    yield from line_questions(file, make)


def line_questions(
    file: Path, make: Callable[[dict[str, Any], int], Question]
) -> Iterator[Question | SkippedQuestion]:
    """The questions that are made of the records in a file of JSON lines.

    Args:
        file: of the records.
        make: makes a question of a record and its index, which counts damaged lines, too.

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
    """The answers file that published scripts leave; ids are those of the question file."""
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
    """An id as question files have it: a number, if it is one."""
    return int(name) if name.isdigit() and str(int(name)) == name else name
