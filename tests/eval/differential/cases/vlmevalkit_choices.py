"""Multiple-choice benchmarks: prompts and scores of VLMEvalKit."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from mgm.eval.metrics.vlmevalkit import MISSING
from tests.eval.differential.case import Case, Record, sets_of
from tests.eval.differential.checkout import Checkout
from tests.eval.differential.made_up import choice_answer, choice_row, filled, long_answers
from tests.eval.differential.vlmevalkit import (
    FUNCTIONS,
    IMAGE_MCQ,
    MCQ,
    Row,
    as_read,
    drawn,
    odd_rows,
    plain_sets,
    prompts,
    scored_rows,
)


def _pairs(random: Random, rows: Sequence[Row], count: int) -> list[tuple[Row, str]]:
    pairs = []
    for number in range(count):
        row = rows[number % len(rows)]
        pairs.append((row, choice_answer(random, filled(row), row["answer"])))
    return pairs + [(rows[0], text) for text in long_answers(rows[0]["answer"])]


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


def circular(harness: Checkout, random: Random) -> Iterator[Record]:
    """MMBench: every question in as many rounds as it has choices, with rotated choices."""
    scorer = harness.module(MCQ)
    rows, groups = [], []
    for index in range(750):
        first = choice_row(random, index, odd=0.05)
        own = [first]
        letters = list(filled(first))
        for turn in range(1, len(letters)):
            moved = [*letters[turn:], *letters[:turn]]
            row = first | {new: first[old] for new, old in zip(letters, moved, strict=True)}
            row["answer"] = letters[moved.index(first["answer"])]
            own.append(row | {"index": str(index + turn * 10**6)})
        groups.append(range(len(rows), len(rows) + len(own)))
        rows += own
    rows = [row | {"hint": "", "l2-category": "x", "split": "dev"} for row in rows]
    pairs = [(row, choice_answer(random, filled(row), row["answer"])) for row in rows]
    pairs = [(row, row["answer"] if random.random() < 0.5 else text) for row, text in pairs]
    yield from scored_rows(harness, random, pairs, "MMBench_DEV_EN")
    table = as_read(harness, [row | {"prediction": answer} for row, answer in pairs])
    table["prediction"] = [str(one) for one in table["prediction"]]
    with TemporaryDirectory() as folder:
        for number, own in enumerate(sets_of(random, [list(group) for group in groups])):
            some = table.iloc[sorted(own)].sort_values("index").copy()
            kept = f"{folder}/{number}.pkl"
            hits = scorer.mcq_circular_eval(None, some, some, 1, kept, "MMBench_DEV_EN")
            yield {"set": own, "score": 100 * float(scorer.report_acc(hits)["Overall"].iloc[0])}
    yield from scored_rows(harness, random, pairs[:300], "MMBench_DEV_EN", judged=True)
    prompted = [row | {"l2-category": "x", "split": "dev"} for row in odd_rows(random, 120)]
    yield from prompts(harness, prompted, "MMBench_DEV_EN")


def mmmu(harness: Checkout, random: Random) -> Iterator[Record]:
    """MMMU: open questions become multiple choice, and images are interleaved with text."""
    rows = [choice_row(random, n, "ABCDEF", odd=0.1, gaps=0.1) for n in range(40)]
    for row in rows[::4]:
        row |= dict.fromkeys("ABCDEF", "") | {"answer": random.choice(("twelve", "3.5", "B", "42"))}
    names = ("Art", "Music", "Math")
    rows = [
        {"id": f"validation_{name}_{n}", "hint": "", "split": "validation"}
        | row
        | {"category": name}
        for n, row in enumerate(rows)
        for name in (random.choice(names),)
    ]
    dataset = "MMMU_DEV_VAL"
    records = list(scored_rows(harness, random, _pairs(random, rows, 2100), dataset))
    yield from records
    yield from plain_sets(harness, random, records)
    yield from scored_rows(harness, random, _pairs(random, rows, 300), dataset, judged=True)
    prompted = []
    for row in rows * 3:
        texts = {"question": row["question"] + random.choice(("", " <image 1>", "<image 2>?"))}
        if row["A"] and random.random() < 0.5:
            texts["A"] = "<image 3>"
        prompted.append(row | texts | {"hint": random.choice(("", "Look."))})
    yield from prompts(harness, prompted, dataset, "MMMUDataset", images=lambda row: 3)


def mmmu_pro(harness: Checkout, random: Random) -> Iterator[Record]:
    """MMMU-Pro (vision): ten choices, which are in the image only."""
    rows = [choice_row(random, n, "ABCDEFGHIJ", odd=0.1) for n in range(60)]
    records = list(scored_rows(harness, random, _pairs(random, rows, 2100), "MMMU_Pro_V"))
    yield from records
    yield from plain_sets(harness, random, records)
    yield from scored_rows(harness, random, _pairs(random, rows, 300), "MMMU_Pro_V", judged=True)
    yield from prompts(harness, rows * 2, "MMMU_Pro_V", "MMMUProDataset")


def mmvp(harness: Checkout, random: Random) -> Iterator[Record]:
    """MMVP: pairs of rows."""
    scorer = harness.module(MCQ)
    rows = []
    for pair in range(1100):
        first = choice_row(random, 2 * pair, "AB", odd=0.05)
        rows += [first, first | {"index": str(2 * pair + 1), "answer": random.choice("AB")}]
    pairs = [(row, choice_answer(random, filled(row), row["answer"])) for row in rows]
    pairs = [(row, row["answer"] if random.random() < 0.5 else text) for row, text in pairs]
    records = [
        record | {"number": number}
        for number, record in enumerate(scored_rows(harness, random, pairs, "MMVP"), start=1)
    ]
    yield from records
    table = as_read(harness, rows)
    table["hit"] = [record["score"] for record in records]
    for own in sets_of(random, [[2 * n, 2 * n + 1] for n in range(1100)]):
        report = scorer.report_acc_MMVP(table.iloc[own].reset_index())
        yield {"set": own, "score": 100 * float(report["Overall"].iloc[0])}
    yield from scored_rows(harness, random, pairs[:300], "MMVP", judged=True)
    yield from prompts(harness, odd_rows(random, 120, "AB"), "MMVP")


def hrbench(harness: Checkout, random: Random) -> Iterator[Record]:
    """HR-Bench: the mean of four rounds."""
    import pandas

    report = harness.module("vlmeval.dataset.utils.hrbench").report_acc_hrbench
    rows = [
        choice_row(random, n, odd=0.05)
        | {"category": random.choice(("single", "cross")), "cycle_category": str(n % 4)}
        for n in range(60)
    ]
    records = list(scored_rows(harness, random, _pairs(random, rows, 2100), "HRBench4K"))
    yield from records
    for own in sets_of(random, [[number] for number in range(len(records))]):
        some = [records[number] for number in own]
        table = pandas.DataFrame([one["row"] | {"hit": one["score"]} for one in some])
        scores = report(table)
        overall = scores[(scores["cycle"] == "Average") & (scores["type"] == "all")]
        yield {"set": own, "score": 100 * float(overall["accuracy"].iloc[0])}
    yield from scored_rows(harness, random, _pairs(random, rows, 300), "HRBench4K", judged=True)
    columns = {"category": "single", "cycle_category": "0"}
    prompted = [row | columns for row in odd_rows(random, 120)]
    yield from prompts(harness, prompted, "HRBench4K")


def mme_realworld(harness: Checkout, random: Random) -> Iterator[Record]:
    """MME-RealWorld: the first capital letter; the harness raises for responses that are not
    strings.
    """
    owner = harness.module(IMAGE_MCQ).MMERealWorld
    scorer = harness.module(MCQ)
    rows = []
    for n in range(40):
        row = choice_row(random, n, "ABCDE", odd=0.0)
        words = [row[letter] or "nothing" for letter in "ABCDE"]
        listed = [f"({letter}) {word}" for letter, word in zip("ABCDE", words, strict=True)]
        row["multi-choice options"] = "The choices are listed below:\n" + "\n".join(listed)
        row["category"] = random.choice(("Perception/Monitoring", "Reasoning/Diagram and Table"))
        rows.append(row | {"l2-category": "count"})
    pairs = [pair for pair in _pairs(random, rows, 2400) if pair[1] not in MISSING]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "answers.tsv"
        table = as_read(
            harness,
            [row | {"index": n, "prediction": text} for n, (row, text) in enumerate(pairs)],
        )
        table["prediction"] = [str(one) for one in table["prediction"]]
        table.to_csv(file, sep="\t", index=False)
        owner.evaluate(str(file))
        (path,) = (one for one in Path(folder).rglob("answers_score.tsv"))
        scores = harness.module("vlmeval.smp.file").load(str(path))
        assert list(scores["index"]) == list(range(len(pairs)))
        for (row, answer), score in zip(pairs, scores["score"], strict=True):
            yield {"row": row, "answer": answer, "score": float(score)}
        for own in sets_of(random, [[number] for number in range(len(pairs))]):
            scores.iloc[own].to_csv(file, sep="\t", index=False)
            rating = scorer.get_dimension_rating(str(file))
            yield {"set": own, "score": 100 * float(rating["Overall"])}
        yield from _raising(owner, table, rows[0], Path(folder))
    yield from prompts(harness, rows * 3, "MME-RealWorld", "MMERealWorld")


def _raising(owner: Any, table: Any, row: Row, folder: Path) -> Iterator[Record]:
    """Responses that the harness reads as missing, for which it raises."""
    for number, text in enumerate(("", "None", "nan")):
        file = folder / f"missing{number}.tsv"
        table.iloc[:1].assign(prediction=text).to_csv(file, sep="\t", index=False)
        try:
            owner.evaluate(str(file))
        except TypeError:
            yield {"row": row, "answer": text, "raises": True}


def _case(
    benchmark: str, record: Callable[..., Any], functions: tuple[str, ...] = FUNCTIONS
) -> Case:
    return Case(benchmark, "vlmevalkit", "vlmevalkit", functions, record, differs=drawn)


CASES: tuple[Case, ...] = (
    _case("seed:test-img", plain("SEEDBench_IMG")),
    _case("scienceqa:test-img", plain("ScienceQA_TEST", "ABCDE")),
    _case("ai2d:test", plain("AI2D_TEST")),
    _case("realworldqa:test", plain("RealWorldQA")),
    _case("mmstar:val", plain("MMStar")),
    _case("vstar:test", plain("VStarBench")),
    _case("mmbench:dev", circular, (f"{MCQ}.mcq_circular_eval", *FUNCTIONS)),
    _case("mmmu:val", mmmu, (f"{MCQ}.MMMU_preproc", *FUNCTIONS)),
    _case("mmmu-pro:vision", mmmu_pro, (f"{MCQ}.MMMU_preproc", *FUNCTIONS)),
    _case("mmvp:test", mmvp, (f"{MCQ}.eval_vanilla", f"{MCQ}.report_acc_MMVP")),
    _case("hrbench:4k", hrbench, ("vlmeval.dataset.utils.hrbench.report_acc_hrbench", *FUNCTIONS)),
    _case(
        "mme-realworld:lite",
        mme_realworld,
        (f"{IMAGE_MCQ}.MMERealWorld.evaluate", f"{MCQ}.get_dimension_rating"),
    ),
)
