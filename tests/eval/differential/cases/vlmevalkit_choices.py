"""Benchmarks with choices as VLMEvalKit asks and scores them."""

import io
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from tests.eval.differential.case import Case, Record, sets_of
from tests.eval.differential.checkout import Checkout, Replies
from tests.eval.differential.made_up import choice_answer, choice_row, long_answers

MCQ = "vlmeval.dataset.utils.multiple_choice"
REPLIES = ("{l}", "{l}.", "Z", "The answer is {l}", "{o}", "I am not sure", "", "A or B", "({l})")
DRAWN = "Failed to predict, thus randomly generate one."
Row = dict[str, str]


def as_read(harness: Checkout, rows: Sequence[Row]) -> Any:
    """Rows as the harness has them once they were in a table: with its missing values."""
    import pandas

    load = harness.module("vlmeval.smp.file").load
    content = pandas.DataFrame(rows).to_csv(sep="\t", index=False)
    # `load` takes a path alone: what it calls for .tsv is pandas.read_csv, which takes content.
    assert load.__module__ == "vlmeval.smp.file"
    return pandas.read_csv(io.StringIO(content), sep="\t")


def _choices(row: Row) -> dict[str, str]:
    return {letter: row[letter] for letter in "ABCDEFGHIJ" if row.get(letter)}


def _pairs(random: Random, rows: Sequence[Row], count: int) -> list[tuple[Row, str]]:
    pairs = []
    for number in range(count):
        row = rows[number % len(rows)]
        pairs.append((row, choice_answer(random, _choices(row), row["answer"])))
    return pairs + [(rows[0], text) for text in long_answers(rows[0]["answer"])]


def scored_rows(
    harness: Checkout,
    random: Random,
    pairs: Sequence[tuple[Row, str]],
    dataset: str,
    judged: bool = False,
) -> Iterator[Record]:
    """Answers scored one by one, as `mcq_vanilla_eval` has them scored."""
    scorer = harness.module(MCQ)
    # The harness writes predictions into a table, and reads them again.
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
    images: Callable[[Row], int] = lambda row: 1,
) -> Iterator[Record]:
    """What `build_prompt` makes of rows."""
    module = harness.module("vlmeval.dataset.image_mcq")
    owner = getattr(module, kind)
    table = as_read(harness, rows)
    for number, row in enumerate(rows):
        count = images(row)
        line = table.iloc[number].copy()
        line["image_path"] = [f"{n + 1}.png" for n in range(count)]
        itself = owner.__new__(owner)
        itself.__dict__.update(meta_only=True, dataset_name=dataset)
        yield {"row": row, "images_in_row": count} | as_text(owner.build_prompt(itself, line))


def as_text(message: Sequence[dict[str, str]]) -> Record:
    """A message in one text, with `<image>` for images that stand behind the first words."""
    kinds = [part["type"] for part in message]
    leading = "text" not in kinds[: kinds.count("image")]
    parts = [
        part["value"] if part["type"] == "text" else "" if leading else "<image>"
        for part in message
    ]
    names = [part["value"] for part in message if part["type"] == "image"]
    return {"prompt": "".join(parts), "images": [int(name.partition(".")[0]) for name in names]}


def odd_rows(random: Random, count: int, letters: str = "ABCD") -> list[Row]:
    """Rows with hints, missing hints, gaps and choices that tables take for missing."""
    hints = ("", "nan", "None", "Look at it.", "none", "N/A", "两行\n文字", "A hint: B")
    return [
        choice_row(random, n, letters, odd=0.3, gaps=0.2) | {"hint": random.choice(hints)}
        for n in range(count)
    ]


def plain(dataset: str, letters: str = "ABCD", judge: bool = True) -> Callable[..., Any]:
    """Records of a benchmark that `ImageMCQDataset` evaluates row by row."""

    def record(harness: Checkout, random: Random) -> Iterator[Record]:
        rows = [choice_row(random, n, letters) for n in range(40)] + odd_rows(random, 20, letters)
        rows = [{"hint": ""} | row for row in rows]
        records = list(scored_rows(harness, random, _pairs(random, rows, 2100), dataset))
        yield from records
        yield from plain_sets(harness, random, records)
        if judge:
            pairs = _pairs(random, rows, 300)
            yield from scored_rows(harness, random, pairs, dataset, judged=True)
        yield from prompts(harness, odd_rows(random, 120, letters), dataset)

    return record


def plain_sets(harness: Checkout, random: Random, records: Sequence[Record]) -> Iterator[Record]:
    """Accuracy over sets of answers, as `report_acc` has it."""
    import pandas

    report = harness.module(MCQ).report_acc
    singles = [[number] for number in range(len(records))]
    for own in sets_of(random, singles):
        hits = pandas.DataFrame({"hit": [records[number]["score"] for number in own]})
        yield {"set": own, "score": 100 * float(report(hits)["Overall"].iloc[0])}


def drawn(record: Record) -> str | None:
    """Why a drawn choice is another one."""
    return RANDOM if record.get("drawn") else None


RANDOM = "the harness draws a choice where the judge names none three times; ours is wrong there"
FUNCTIONS = (f"{MCQ}.eval_vanilla", f"{MCQ}.report_acc", "vlmeval.dataset.image_mcq.build_prompt")


def _plain_case(benchmark: str, dataset: str, drawn_records: int, letters: str = "ABCD") -> Case:
    return Case(
        benchmark,
        "vlmevalkit",
        "vlmevalkit",
        FUNCTIONS,
        plain(dataset, letters),
        differences={RANDOM: drawn_records} if drawn_records else {},
        differs=drawn,
    )


CASES: tuple[Case, ...] = (
    _plain_case("seed:test-img", "SEEDBench_IMG", 0),
    _plain_case("scienceqa:test-img", "ScienceQA_TEST", 0, "ABCDE"),
)
