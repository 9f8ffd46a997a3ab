"""ScienceQA: school questions with choices, about half of them with an image."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mgm.errors import MGMError
from mgm.eval.benchmark import Benchmark, Needed
from mgm.eval.files import field, read_json
from mgm.eval.judge import Judge
from mgm.eval.llava_questions import write_answers
from mgm.eval.question import Answered, Question
from mgm.eval.wording import LETTER

LETTERS = "ABCDE"


class ScienceQA(Benchmark):
    """Letters; questions with an image are counted for themselves, too."""

    name, title, folder = "scienceqa", "ScienceQA", "scienceqa"
    splits = scored = ("test",)
    sizes = {"test": 4241}  # noqa: RUF012

    def needs(self, split: str) -> list[Needed]:
        """Questions, answers and images."""
        hub = "ScienceQA's repository, data/scienceqa"
        return [
            Needed("llava_test_CQM-A.json", "eval.zip of LLaVA's docs/Evaluation.md"),
            Needed("problems.json", hub),
            Needed("pid_splits.json", hub),
            Needed("images/test", "ScienceQA, unpacked"),
        ]

    def questions(self, folder: Path, split: str, protocol: str) -> Iterator[Question]:
        """See `Benchmark`."""
        problems = read_json(folder / "problems.json")
        file = folder / "llava_test_CQM-A.json"
        for record in read_json(file):
            name = str(field(record, "id", file))
            if name not in problems:
                raise MGMError(f"{folder / 'problems.json'}: has no problem {name}")
            problem = problems[name]
            asked = record["conversations"][0]["value"].replace("<image>", "").strip()
            image = record.get("image")
            yield Question(
                id=name,
                text=f"{asked}\n{LETTER}",
                images=(folder / "images" / "test" / image,) if image else (),
                answer=LETTERS[problem["answer"]],
                group=name,
                category="image" if image else "text",
                max_new_tokens=1024,
                facts={"prompt": asked, "choices": problem["choices"]},
            )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether the letter is right."""
        said = parse(answered.text)
        index = predicted_index(said, answered.question.facts["choices"])
        return float(index >= 0 and LETTERS[index] == answered.question.answer)

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """The published answers."""
        return [write_answers(folder / "answers.jsonl", answered)]


def parse(text: str) -> str:
    """The letter that an answer is, begins with, or names; else "FAILED".

    Source: eval_science_qa.py.
    """
    if text in LETTERS and len(text) == 1:
        return text
    if len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        return text[0]
    found = re.findall(r"The answer is ([A-Z]).", text)
    return found[0] if len(found) == 1 else "FAILED"


def predicted_index(letter: str, choices: Sequence[str]) -> int:
    """The number of the choice that a letter means; -1: there is none."""
    return LETTERS.index(letter) if letter and letter in LETTERS[: len(choices)] else -1
