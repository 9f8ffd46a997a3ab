"""MathVista: scores of VLMEvalKit with an LLM judge."""

import ast
from collections.abc import Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from tests.eval.differential.case import Case, Record, sets_of
from tests.eval.differential.checkout import Checkout, Replies
from tests.eval.differential.made_up import choice_answer, choice_row, filled
from tests.eval.differential.vlmevalkit import Row, as_read, odd_rows, prompts

SCORER = "vlmeval.dataset.utils.mathvista"
NUMBER_FORMS = (
    *("{}", "{}", " {} ", "{}.", "{}.0", "+{}", "The answer is {}.", "**{}**", "{}%", "${}"),
    *("n = {}", "[{}]", "about {} of them", "<think>5</think>{}", "", "nan", "inf", "None", "1_0"),
)  # fmt: skip


def mathvista(harness: Checkout, random: Random) -> Iterator[Record]:
    """MathVista: answers that the judge extracts from responses that are not bare answers."""
    scorer = harness.module(SCORER)
    rows = [mathvista_row(random, n) for n in range(60)]
    pairs = [(row, mathvista_answer(random, row)) for row in rows * 36]
    table = as_read(harness, [row | {"prediction": answer} for row, answer in pairs])
    records, results = [], []
    for number, (row, answer) in enumerate(pairs):
        judge = Replies([mathvista_reply(random, row)])
        results.append(scorer.MathVista_auxeval(judge, table.iloc[number]))
        records.append({"row": row, "answer": answer, "replies": judge.used})
    read = as_read(harness, [row | one for (row, _), one in zip(pairs, results, strict=True)])
    for number, record in enumerate(records):
        yield record | {"score": float(scorer.post_check(read.iloc[number], prefetch=False))}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "results.tsv"
        for own in sets_of(random, [[number] for number in range(len(pairs))]):
            read.iloc[own].to_csv(file, sep="\t", index=False)
            report = scorer.MathVista_acc(str(file))
            yield {"set": own, "score": float(report["acc"].iloc[0])}
    hints = [f"{row['hint']} {row['question']}" for row in odd_rows(random, 120)]
    with_hints = [row | {"question": hint} for row, hint in zip(rows * 2, hints, strict=True)]
    yield from prompts(harness, with_hints, "MathVista_MINI", "MathVista", "image_vqa")


def mathvista_row(random: Random, index: int) -> Row:
    """A problem of one of MathVista's types."""
    kind = random.choice(("choices", "integer", "float", "list"))
    row = choice_row(random, index, odd=0.05)
    choices = list(filled(row).values())
    right = random.choice(choices)
    answer, precision = {
        "choices": (right, ""),
        "integer": (random.choice(("0", "7", "14", "-3")), ""),
        "float": (random.choice(("0.0", "1.2", "3.50", "0.75")), "2.0"),
        "list": ("[1, 2]", ""),
    }[kind]
    is_choice = kind == "choices"
    return {
        "index": str(index),
        "question": f"Hint: Please answer.\nQuestion: {row['question']}",
        "question_type": "multi_choice" if is_choice else "free_form",
        "answer_type": "text" if is_choice else kind,
        "choices": str(choices if is_choice else []),
        "answer": answer,
        "answer_option": "ABCD"[choices.index(right)] if is_choice else "",
        "precision": precision,
        "unit": "",
        "task": random.choice(("geometry", "textbook")),
        "skills": "['algebra']",
    }


def mathvista_answer(random: Random, row: Row) -> str:
    """A response to a problem: with choices, or with numbers."""
    choices = dict(zip("ABCD", ast.literal_eval(row["choices"]), strict=False))
    if choices:
        return choice_answer(random, choices, row["answer_option"])
    number = (
        row["answer"] if random.random() < 0.6 else random.choice(("8", "1.25", "0", "-7", "1e3"))
    )
    form = random.choice(NUMBER_FORMS)
    return form.format(number)


def mathvista_reply(random: Random, row: Row) -> str:
    """The answer that the judge extracts."""
    right = row["answer_option"] or row["answer"]
    return random.choice((right, right, row["answer"], f"({right})", "B", "5", "0", "None", "3.5"))


CASES: tuple[Case, ...] = (
    Case(
        "mathvista:testmini",
        "vlmevalkit",
        "vlmevalkit",
        tuple(f"{SCORER}.{name}" for name in ("MathVista_auxeval", "post_check", "MathVista_acc")),
        mathvista,
    ),
)
