"""MMBench: multiple choice with circular evaluation (CircularEval)."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

from mgm.data.images.loading import ImageSource
from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response, SkippedQuestion, question_or_skip
from mgm.eval.metrics.lmms_eval import mcq_letter, mmbench_letter
from mgm.eval.metrics.multiple_choice import (
    Choices,
    choices_by_letter,
    chosen_letter,
    contained_choice,
    format_choices,
)
from mgm.eval.metrics.vlmevalkit import (
    choice_prompt,
    choices_of,
    letter_of_judge,
    score_multiple_choice,
)
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, RequiredFile, Table, rows_with_images
from mgm.eval.tasks.files import import_openpyxl, write_jsonl
from mgm.eval.tasks.llava_format import original_id
from mgm.eval.tasks.prompts import LETTER_PROMPT

LETTER_PROMPTS = {"en": LETTER_PROMPT, "cn": "请直接回答选项字母。"}
MMBENCH_FILES = {
    "dev": "mmbench_dev_20230712",
    "test": "mmbench_test_en_20231003",
    "dev-cn": "mmbench_dev_cn_20231003",
    "test-cn": "mmbench_test_cn_20231003",
}
# Not allowed in spreadsheets.
REMOVE_CONTROL_CHARACTERS = dict.fromkeys({*range(32)} - {9, 10, 13})
MMBENCH_URL = "https://opencompass.openxlab.space/utils/benchmarks/MMBench/{name}"
MMBENCH_TABLES = {
    "dev": Table("MMBench_DEV_EN.tsv", 4329, "b6caf1133a01c6bb705cf753bb527ed8", url=MMBENCH_URL),
    "test": Table("MMBench_TEST_EN.tsv", 6666, "6939fadb0ce626fefc0bdc9c64efc528", url=MMBENCH_URL),
    "dev-cn": Table(
        "MMBench_DEV_CN.tsv", 4329, "08b8fc3324a5ed74155350f57be69fbd", url=MMBENCH_URL
    ),
    "test-cn": Table(
        "MMBench_TEST_CN.tsv", 6666, "7e1239baf0ee4c8b513e19705a0f317e", url=MMBENCH_URL
    ),
}
LMMS_EVAL_SCORED = "ABCD"  # the choices in lmms-eval's scoring; its prompt has E too
EMPTY_VALUES = ("nan", "none", "")  # empty hints and choices in the published script
ROUND_OFFSET = 10**6  # between the indices of rounds of a question


class MMBench(Benchmark):
    """Circular accuracy: a question is right if it is right in every round of rotated choices.

    The published predictions were scored by MMBench's server, whose rules are not public: the paper
    protocol extracts letters by rules of ours. The protocol lmms-eval is the task mmbench_en_dev
    with a judge, and mmbench_en_dev_static without one.
    """

    name, title, folder, metric = "mmbench", "MMBench", "mmbench", "circular accuracy"
    other_folders = ("MMB",)
    splits = tuple(MMBENCH_FILES)
    scored_splits = ("dev", "dev-cn")
    sizes: ClassVar = {"dev": 4377, "test": 6666, "dev-cn": 4329, "test-cn": 6666}
    protocols = (PAPER, VLMEVALKIT, LMMS_EVAL)
    judged = (VLMEVALKIT, LMMS_EVAL)
    sources: ClassVar = {
        **{(split, VLMEVALKIT): table for split, table in MMBENCH_TABLES.items()},
        ("dev", LMMS_EVAL): HubFiles("lmms-lab-encoder/MMBench", "en/dev-*.parquet", 4329),
    }

    def published_files(self, split: str) -> list[RequiredFile]:
        """One table with images."""
        name = f"{MMBENCH_FILES[split]}.tsv"
        site = "https://download.openmmlab.com/mmclassification/datasets/mmbench"
        return [RequiredFile(name, "OpenMMLab", f"{site}/{name}")]

    def published_questions(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """The rows of the published table, which may refer to the image of an earlier row."""
        language = "cn" if split.endswith("cn") else "en"
        file = folder / f"{MMBENCH_FILES[split]}.tsv"
        for number, (row, images) in enumerate(rows_with_images(file), start=1):
            where = f"{file.name}, row {number}"
            if isinstance(images, MGMError):
                yield SkippedQuestion(where, str(images))
            else:
                yield question_or_skip(
                    where, partial(_paper_question, row, images, LETTER_PROMPTS[language])
                )

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """The prompt of lmms-eval or VLMEvalKit; both score with four choices or fewer."""
        if protocol == LMMS_EVAL:
            # Compat: scoring includes "nan" as a choice, the prompt does not.
            choices = {one: str(row[one]) for one in LMMS_EVAL_SCORED if row.get(one) is not None}
            text = _lmms_eval_prompt(row)
        else:
            choices = choices_of(row)
            text = choice_prompt(row, choices)
        return _question(row, images, choices, text, text)

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Whether the letter, or the letter of the choice in the response, is the target."""
        if protocol == VLMEVALKIT:
            return score_multiple_choice(response, judge)
        letter = _letter(response, protocol, judge)
        return float(letter is not None and letter == response.question.target)

    def parse(self, response: Response, protocol: str) -> str | None:
        """The letter by the rules of the protocol, without a judge."""
        if protocol == VLMEVALKIT:
            return super().parse(response, protocol)
        return _letter(response, protocol, Judge()) or ""

    def combine(self, questions: Sequence[Question], credits: Sequence[float]) -> float:
        """The share of questions that are right in all their rounds, in per cent."""
        rounds: dict[str, list[float]] = defaultdict(list)
        for question, credit in zip(questions, credits, strict=True):
            rounds[question.group].append(credit)
        return 100 * sum(min(own) for own in rounds.values()) / len(rounds)

    def submission(self, responses: Sequence[Response], folder: Path, split: str) -> list[Path]:
        """The answers file of the published scripts, and a spreadsheet for MMBench's server."""
        records = [
            {
                "question_id": original_id(one.question.id),
                "round_id": 0,
                "prompt": one.question.metadata["prompt"],
                "text": one.text,
                "options": list(choices_by_letter(one.question.metadata["choices"]).values()),
                "option_char": list(choices_by_letter(one.question.metadata["choices"])),
                "answer_id": "",
                "model_id": "mgm",
                "metadata": {},
            }
            for one in responses
        ]
        written = [write_jsonl(folder / f"{MMBENCH_FILES[split]}.jsonl", records)]
        sheet = upload_rows(
            [one.question.metadata["row"] for one in responses],
            {one.question.id: one.text for one in responses},
        )
        return [*written, write_sheet(folder / f"{MMBENCH_FILES[split]}.xlsx", sheet)]


def paper_choices(row: dict[str, Any]) -> list[str]:
    """The choices of a row, up to the first that is empty.

    Compat: "nan" and "none" count as empty. Source: model_vqa_mmbench.py.
    """
    values = (str(row.get(letter) or "") for letter in "ABCD")
    return list(takewhile(lambda value: value.lower() not in EMPTY_VALUES, values))


# Compat: columns that the upload drops, and the index of the inserted column with predictions.
# Source: convert_mmbench_for_submission.py.
DROPPED_COLUMNS = ("hint", "category", "source", "image", "comment", "l2-category")
PREDICTION_COLUMN = 6


def upload_rows(rows: Sequence[dict[str, Any]], texts: dict[str, str]) -> list[list[Any]]:
    """The rows of a submission, its header first.

    Args:
        rows: rows of the table.
        texts: responses by the index of their question.
    """
    if not rows:
        return []
    columns = [name for name in rows[0] if name not in DROPPED_COLUMNS]
    columns.insert(PREDICTION_COLUMN, "prediction")
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
    """The value of a cell: numbers as such, text without control characters."""
    if value is None or isinstance(value, int | float):
        return value
    value = str(value)
    # Spreadsheets store numbers with 15 digits.
    is_number = value.isdecimal() and len(value) <= 15
    return int(value) if is_number else value.translate(REMOVE_CONTROL_CHARACTERS)


def _paper_question(
    row: dict[str, Any], images: tuple[ImageSource, ...], instruction: str
) -> Question:
    choices = paper_choices(row)
    text = _paper_prompt(row, choices)
    return _question(row, images, choices, text, f"{text}\n{instruction}")


def _paper_prompt(row: dict[str, str], choices: Sequence[str]) -> str:
    hint = row.get("hint", "")
    question = row["question"] if hint.lower() in EMPTY_VALUES else f"{hint}\n{row['question']}"
    return f"{question}\n{format_choices(choices)}"


def _lmms_eval_prompt(row: dict[str, Any]) -> str:
    """The prompt. Source: `mmbench_doc_to_text` of lmms-eval's mmbench, en_utils.py."""
    shown = {one: row[one] for one in "ABCDE" if row.get(one) and row[one] != "nan"}
    options = f"There are several options:\n{format_choices(shown)}".rstrip("\n")
    hint = row.get("hint")
    begin = "" if hint is None or hint == "nan" else f"{hint} "
    return f"{begin}{row['question']} {options}\n\n{LETTER_PROMPT}"


def _letter(response: Response, protocol: str, judge: Judge) -> str | None:
    choices = response.question.metadata["choices"]
    if protocol == LMMS_EVAL:
        return _lmms_eval_letter(response, choices, judge)
    return chosen_letter(response.text, len(choices)) or contained_choice(response.text, choices)


def _lmms_eval_letter(response: Response, choices: Mapping[str, str], judge: Judge) -> str | None:
    """The letter by lmms-eval's rules; None where it guesses at random.

    Source: `eval_sub_data` of lmms-eval's mmbench, mmbench_evals.py.
    """
    letter = mmbench_letter(response.text, choices)
    if letter is not None:
        return letter
    if not judge.is_model:
        return mcq_letter(response.text, sorted(choices))
    return letter_of_judge(response.question, response.text, judge, mmbench_letter)


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
        target=row.get("answer") or None,
        group=str(int(index) % ROUND_OFFSET) if index.isdigit() else index,
        category=row.get("category") or "",
        max_new_tokens=1024,
        metadata={
            "prompt": prompt, "question": row["question"], "choices": choices, "row": dict(row),
        },
    )  # fmt: skip
