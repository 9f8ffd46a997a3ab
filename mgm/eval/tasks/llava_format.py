"""Question files as LLaVA published them: JSON lines with question_id, image and text."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mgm.eval.harness.question import Answered, Question
from mgm.eval.tasks.files import field, present, read_lines, write_lines


def llava_questions(
    file: Path,
    images: Path,
    max_new_tokens: int = 128,
    text: Callable[[str], str] = lambda text: text,
    **more: Callable[[dict[str, Any]], Any],
) -> Iterator[Question]:
    """Questions, each about one image.

    Args:
        file: of the questions.
        images: their folder.
        max_new_tokens: of an answer.
        text: what is asked instead of a text.
        **more: further fields of `Question`, made of a record.

    Raises:
        MGMError: a file is missing or a record lacks a field.
    """
    present(images)
    for number, record in enumerate(read_lines(file), start=1):
        where = f"{file}, line {number}"
        image = record.get("image")
        fields: dict[str, Any] = {"facts": {"prompt": field(record, "text", where)}}
        fields |= {name: make(record) for name, make in more.items()}
        yield Question(
            id=str(field(record, "question_id", where)),
            text=text(record["text"]),
            images=(images / image,) if image else (),
            max_new_tokens=max_new_tokens,
            group=str(image or record["question_id"]),
            **fields,
        )


def write_answers(path: Path, answered: Sequence[Answered], model: str = "mgm") -> Path:
    """The answers file that published scripts leave; ids are those of the question file."""
    return write_lines(
        path,
        [
            {
                "question_id": as_it_was(one.question.facts.get("question_id", one.question.id)),
                "prompt": one.question.facts.get("prompt", one.question.text),
                "text": one.text,
                "answer_id": "",
                "model_id": model,
                "metadata": {},
            }
            for one in answered
        ],
    )


def as_it_was(name: str) -> str | int:
    """An id as question files have it: a number, if it is one."""
    return int(name) if name.isdigit() and str(int(name)) == name else name
