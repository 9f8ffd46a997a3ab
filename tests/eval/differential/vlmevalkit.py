"""Helpers for cases of VLMEvalKit: tables, scores of single rows, prompts."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from tests.eval.differential.case import Record, sets_of
from tests.eval.differential.checkout import Checkout, Replies
from tests.eval.differential.made_up import choice_row

MCQ = "vlmeval.dataset.utils.multiple_choice"
IMAGE_MCQ = "vlmeval.dataset.image_mcq"
FUNCTIONS = (
    *(f"{MCQ}.eval_vanilla", f"{MCQ}.report_acc"),
    f"{IMAGE_MCQ}.ImageMCQDataset.build_prompt",
)
REPLIES = ("{l}", "{l}.", "Z", "The answer is {l}", "{o}", "I am not sure", "", "A or B", "({l})")
DRAWN = "Failed to predict, thus randomly generate one."
RANDOM = "the harness draws a choice where the judge names none three times; ours is wrong there"
Row = dict[str, str]


def as_read(harness: Checkout, rows: Sequence[dict[str, Any]]) -> Any:
    """Rows after a round trip through a table of the harness, with its missing values."""
    import pandas

    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.tsv"
        pandas.DataFrame(rows).to_csv(path, sep="\t", index=False)
        return harness.module("vlmeval.smp.file").load(str(path))


def scored_rows(
    harness: Checkout,
    random: Random,
    pairs: Sequence[tuple[Row, str]],
    dataset: str,
    judged: bool = False,
) -> Iterator[Record]:
    """Responses scored one by one, as by `mcq_vanilla_eval`."""
    scorer = harness.module(MCQ)
    # The harness writes predictions to a table and reads them again.
    table = as_read(harness, [row | {"prediction": answer} for row, answer in pairs])
    table["prediction"] = [str(one) for one in table["prediction"]]
    gold = list(table["answer"])
    if "MMMU" in dataset:
        table = scorer.MMMU_preproc(table)
        gold = [one if str(one) in tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ") else "A" for one in gold]
    table["GT"] = gold
    for number, (row, answer) in enumerate(pairs):
        record: Record = {"row": row, "answer": answer}
        judge = None
        if judged:
            replies = [
                random.choice(REPLIES).format(l=row["answer"], o=random.choice("ABCD"))
                for _ in range(3)
            ]
            judge = Replies(replies)
        result = scorer.eval_vanilla(judge, table.iloc[number], dataset_name=dataset)
        if judge is not None:
            record["replies"] = judge.used
        yield record | ({"drawn": True} if DRAWN in result["log"] else {"score": result["hit"]})


def prompts(
    harness: Checkout,
    rows: Sequence[Row],
    dataset: str,
    kind: str = "ImageMCQDataset",
    module: str = "image_mcq",
    images: Callable[[Row], int] = lambda row: 1,
) -> Iterator[Record]:
    """Prompts by `build_prompt`."""
    owner = getattr(harness.module(f"vlmeval.dataset.{module}"), kind)
    table = as_read(harness, rows)
    for number, row in enumerate(rows):
        count = images(row)
        line = table.iloc[number].copy()
        line["image_path"] = [f"{n + 1}.png" for n in range(count)]
        itself = owner.__new__(owner)
        itself.__dict__.update(meta_only=True, dataset_name=dataset)
        yield {"row": row, "images_in_row": count} | as_text(owner.build_prompt(itself, line))


def odd_rows(random: Random, count: int, letters: str = "ABCD") -> list[Row]:
    """Rows with hints, missing hints and choices, and choices that tables read as missing."""
    hints = ("", "nan", "None", "Look at it.", "none", "N/A", "两行\n文字", "A hint: B")
    return [
        choice_row(random, n, letters, odd=0.3, gaps=0.2) | {"hint": random.choice(hints)}
        for n in range(count)
    ]


def as_text(message: Sequence[dict[str, str]]) -> Record:
    """A message as one text, with `<image>` for images after the first text."""
    kinds = [part["type"] for part in message]
    leading = "text" not in kinds[: kinds.count("image")]
    parts = [
        part["value"] if part["type"] == "text" else "" if leading else "<image>"
        for part in message
    ]
    names = [part["value"] for part in message if part["type"] == "image"]
    return {"prompt": "".join(parts), "images": [int(name.partition(".")[0]) for name in names]}


def plain_sets(harness: Checkout, random: Random, records: Sequence[Record]) -> Iterator[Record]:
    """Accuracy over sets of responses, by `report_acc`."""
    import pandas

    report = harness.module(MCQ).report_acc
    singles = [[number] for number in range(len(records))]
    for own in sets_of(random, singles):
        hits = pandas.DataFrame({"hit": [records[number]["score"] for number in own]})
        yield {"set": own, "score": 100 * float(report(hits)["Overall"].iloc[0])}


def drawn(record: Record) -> str | None:
    """Why a random choice differs."""
    return RANDOM if record.get("drawn") else None
