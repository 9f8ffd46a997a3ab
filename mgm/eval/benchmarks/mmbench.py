"""MMBench: choices, each question asked as often as it has some, once round."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

from mgm.data.images.loading import ImageSource
from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question, SkippedQuestion, question_or_skip
from mgm.eval.metrics.lmms_eval import extracted_letter, mmbench_letter
from mgm.eval.metrics.multiple_choice import (
    Choices,
    by_letter,
    chosen_letter,
    contained_choice,
    listed,
)
from mgm.eval.metrics.vlmevalkit import choice_credit, choice_prompt, choices_of, judged_letter
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Needed, Table, rows_with_images
from mgm.eval.tasks.files import import_openpyxl, write_lines
from mgm.eval.tasks.llava_format import as_it_was
from mgm.eval.tasks.prompts import LETTER

DIRECT = {"en": LETTER, "cn": "请直接回答选项字母。"}
FILES = {
    "dev": "mmbench_dev_20230712",
    "test": "mmbench_test_en_20231003",
    "dev-cn": "mmbench_dev_cn_20231003",
    "test-cn": "mmbench_test_cn_20231003",
}
# A spreadsheet holds none of them.
CONTROL_CHARACTERS = dict.fromkeys({*range(32)} - {9, 10, 13})
TABLES_SITE = "https://opencompass.openxlab.space/utils/benchmarks/MMBench/{name}"
TABLES = {
    "dev": Table("MMBench_DEV_EN.tsv", 4329, "b6caf1133a01c6bb705cf753bb527ed8", url=TABLES_SITE),
    "test": Table("MMBench_TEST_EN.tsv", 6666, "6939fadb0ce626fefc0bdc9c64efc528", url=TABLES_SITE),
    "dev-cn": Table(
        "MMBench_DEV_CN.tsv", 4329, "08b8fc3324a5ed74155350f57be69fbd", url=TABLES_SITE
    ),
    "test-cn": Table(
        "MMBench_TEST_CN.tsv", 6666, "7e1239baf0ee4c8b513e19705a0f317e", url=TABLES_SITE
    ),
}
LMMS_EVAL_SCORED = "ABCD"  # the choices that lmms-eval scores with; it shows E, too
NOTHING = ("nan", "none", "")  # what stands for no hint and no choice in the published script
ROUND = 10**6  # index of a question's next round is larger by this


class MMBench(Benchmark):
    """A question counts as right where it is in every one of its rounds.

    The published answers were scored by MMBench's server, whose rules are not public: in the paper
    protocol a letter is looked for by rules of ours. The protocol lmms-eval is its task
    mmbench_en_dev with a judge, and mmbench_en_dev_static without one.
    """

    name, title, folder, metric = "mmbench", "MMBench", "mmbench", "circular accuracy"
    other_folders = ("MMB",)
    splits = tuple(FILES)
    scored = ("dev", "dev-cn")
    sizes: ClassVar = {"dev": 4377, "test": 6666, "dev-cn": 4329, "test-cn": 6666}
    protocols = (PAPER, VLMEVALKIT, LMMS_EVAL)
    judged = (VLMEVALKIT, LMMS_EVAL)
    sources: ClassVar = {
        **{(split, VLMEVALKIT): table for split, table in TABLES.items()},
        ("dev", LMMS_EVAL): HubFiles("lmms-lab-encoder/MMBench", "en/dev-*.parquet", 4329),
    }

    def needs(self, split: str) -> list[Needed]:
        """One table, images within."""
        name = f"{FILES[split]}.tsv"
        site = "https://download.openmmlab.com/mmclassification/datasets/mmbench"
        return [Needed(name, "OpenMMLab", f"{site}/{name}")]

    def published(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """See `Benchmark`. Rows without an image have that of the row they name."""
        language = "cn" if split.endswith("cn") else "en"
        file = folder / f"{FILES[split]}.tsv"
        for number, (row, images) in enumerate(rows_with_images(file), start=1):
            where = f"{file.name}, row {number}"
            if isinstance(images, MGMError):
                yield SkippedQuestion(where, str(images))
            else:
                yield question_or_skip(where, partial(_published, row, images, DIRECT[language]))

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        if protocol == LMMS_EVAL:
            # It scores with "nan" as a choice that it does not show.
            choices = {one: str(row[one]) for one in LMMS_EVAL_SCORED if row.get(one) is not None}
            text = _lmms_eval(row)
        else:
            choices = choices_of(row)
            text = choice_prompt(row, choices)
        return _question(row, images, choices, text, text)

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether the letter is right; an answer that names none may mean a choice by its text."""
        if protocol == VLMEVALKIT:
            return choice_credit(answered, judge)
        letter = _letter(answered, protocol, judge)
        return float(letter is not None and letter == answered.question.answer)

    def parse(self, answered: Answered, protocol: str) -> str | None:
        """See `Benchmark`."""
        if protocol == VLMEVALKIT:
            return super().parse(answered, protocol)
        return _letter(answered, protocol, Judge()) or ""

    def combine(self, questions: Sequence[Question], credits: Sequence[float]) -> float:
        """Share of questions that are right in all their rounds, in per cent."""
        rounds: dict[str, list[float]] = defaultdict(list)
        for question, credit in zip(questions, credits, strict=True):
            rounds[question.group].append(credit)
        return 100 * sum(min(own) for own in rounds.values()) / len(rounds)

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """The published answers, and a spreadsheet for MMBench's server where openpyxl is there."""
        records = [
            {
                "question_id": as_it_was(one.question.id),
                "round_id": 0,
                "prompt": one.question.facts["prompt"],
                "text": one.text,
                "options": list(by_letter(one.question.facts["choices"]).values()),
                "option_char": list(by_letter(one.question.facts["choices"])),
                "answer_id": "",
                "model_id": "mgm",
                "metadata": {},
            }
            for one in answered
        ]
        written = [write_lines(folder / f"{FILES[split]}.jsonl", records)]
        sheet = upload_rows(
            [one.question.facts["row"] for one in answered],
            {one.question.id: one.text for one in answered},
        )
        return [*written, write_sheet(folder / f"{FILES[split]}.xlsx", sheet)]


def options(row: dict[str, Any]) -> list[str]:
    """The choices of a row, up to the first that is none.

    Compat: "nan" and "none" are none. Source: model_vqa_mmbench.py.
    """
    values = (str(row.get(letter) or "") for letter in "ABCD")
    return list(takewhile(lambda value: value.lower() not in NOTHING, values))


# Compat: the upload has the table's columns without these, answers in the place of the sixth.
# Source: convert_mmbench_for_submission.py.
LEFT_OUT = ("hint", "category", "source", "image", "comment", "l2-category")
PLACE = 6


def upload_rows(rows: Sequence[dict[str, Any]], texts: dict[str, str]) -> list[list[Any]]:
    """The rows of a submission, its header first.

    Args:
        rows: of the table.
        texts: answers by the index of their questions.
    """
    if not rows:
        return []
    columns = [name for name in rows[0] if name not in LEFT_OUT]
    columns.insert(PLACE, "prediction")
    body = [
        [
            texts.get(str(row["index"])) if name == "prediction" else row.get(name)
            for name in columns
        ]
        for row in rows
    ]
    return [columns, *body]


def write_sheet(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    """Write a spreadsheet; returns the path.

    Raises:
        MGMError: openpyxl is not installed.
    """
    openpyxl = import_openpyxl(path)
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet()
    for row in rows:
        sheet.append([_cell(value) for value in row])
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)
    return path


def _cell(value: Any) -> Any:
    """A number as one; of a text what a spreadsheet can hold."""
    if value is None or isinstance(value, int | float):
        return value
    value = str(value)
    # A spreadsheet keeps 15 digits of a number.
    is_number = value.isdecimal() and len(value) <= 15
    return int(value) if is_number else value.translate(CONTROL_CHARACTERS)


def _published(row: dict[str, Any], images: tuple[ImageSource, ...], request: str) -> Question:
    choices = options(row)
    text = _paper(row, choices)
    return _question(row, images, choices, text, f"{text}\n{request}")


def _paper(row: dict[str, str], choices: Sequence[str]) -> str:
    hint = row.get("hint", "")
    asked = row["question"] if hint.lower() in NOTHING else f"{hint}\n{row['question']}"
    return f"{asked}\n{listed(choices)}"


def _lmms_eval(row: dict[str, Any]) -> str:
    """Source: `mmbench_doc_to_text` of lmms-eval's mmbench, en_utils.py."""
    shown = {one: row[one] for one in "ABCDE" if row.get(one) and row[one] != "nan"}
    options = f"There are several options:\n{listed(shown)}".rstrip("\n")
    hint = row.get("hint")
    begin = "" if hint is None or hint == "nan" else f"{hint} "
    return f"{begin}{row['question']} {options}\n\n{LETTER}"


def _letter(answered: Answered, protocol: str, judge: Judge) -> str | None:
    choices = answered.question.facts["choices"]
    if protocol == LMMS_EVAL:
        return _lmms_eval_letter(answered, choices, judge)
    return chosen_letter(answered.text, len(choices)) or contained_choice(answered.text, choices)


def _lmms_eval_letter(answered: Answered, choices: Mapping[str, str], judge: Judge) -> str | None:
    """The letter that lmms-eval sees; where it draws one, because its judge names none, there is
    none.

    Source: `eval_sub_data` of lmms-eval's mmbench, mmbench_evals.py.
    """
    letter = mmbench_letter(answered.text, choices)
    if letter is not None:
        return letter
    if not judge.is_model:
        return extracted_letter(answered.text, sorted(choices))
    return judged_letter(answered.question, answered.text, judge, mmbench_letter)


def _question(
    row: dict[str, Any],
    images: tuple[ImageSource, ...],
    choices: Choices,
    prompt: str,
    text: str,
) -> Question:
    index = str(row["index"])
    return Question(
        id=index,
        text=text,
        images=images,
        answer=row.get("answer") or None,
        group=str(int(index) % ROUND) if index.isdigit() else index,
        category=row.get("category") or "",
        max_new_tokens=1024,
        facts={
            "prompt": prompt, "question": row["question"], "choices": choices, "row": dict(row),
        },
    )  # fmt: skip
