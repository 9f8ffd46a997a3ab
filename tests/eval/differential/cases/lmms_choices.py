"""SEED-Bench and ScienceQA: prompts and scores of lmms-eval."""

from collections.abc import Iterator
from random import Random

from tests.eval.differential.case import Case, Record
from tests.eval.differential.checkout import Checkout
from tests.eval.differential.lmms_eval import (
    SHORT_PROMPT,
    Doc,
    answers_to,
    lettered,
    lmms_case,
    mean,
    simple,
    task,
)
from tests.eval.differential.made_up import WORDS, choice_row, filled


def seed(harness: Checkout, random: Random) -> Iterator[Record]:
    """SEED-Bench: the first letter."""
    module = task(harness, "seedbench.utils")
    docs = []
    for n in range(120):
        row = choice_row(random, n)
        choices = {f"choice_{letter.lower()}": row[letter] or "no" for letter in "ABCD"}
        kinds = {"data_type": random.choice(("image", "video")), "question_type_id": n % 12}
        answer = random.choice("ABCD")
        names = {"question_id": str(n), "data_id": f"d{n}"}
        docs.append({"question": row["question"], **choices, **kinds, **names, "answer": answer})
    pairs = answers_to(random, docs, seed_choices, lambda doc: doc["answer"])
    yield from simple(
        harness,
        random,
        pairs,
        lambda doc, results: module.seed_process_result(doc, results)["seed_all"],
        module.seed_aggregation_result,
    )
    for doc in docs:
        yield {"row": doc, "prompt": module.seed_doc_to_text(doc)}


def seed_choices(doc: Doc) -> dict[str, str]:
    """The choices of a row of SEED-Bench by letter."""
    return {letter: doc[f"choice_{letter.lower()}"] for letter in "ABCD"}


def scienceqa(harness: Checkout, random: Random) -> Iterator[Record]:
    """ScienceQA: only the letter, or the letter and a period."""
    module = task(harness, "scienceqa.utils")
    docs = []
    for n in range(120):
        choices = list(filled(choice_row(random, n, "ABCDE")).values())
        hint = random.choice(("", "Look at it.", "nan", "Two\nlines"))
        question = random.choice(WORDS)
        answer = random.randrange(len(choices))
        docs.append({"question": question, "choices": choices, "hint": hint, "answer": answer})
    pairs = answers_to(random, docs, lettered("choices"), lambda doc: "ABCDE"[doc["answer"]])
    yield from simple(
        harness,
        random,
        pairs,
        lambda doc, results: module.sqa_process_results(doc, results)["exact_match"],
        mean,
    )
    for doc in docs:
        prompt = module.sqa_doc_to_text(doc, {"format": "default", **SHORT_PROMPT})
        yield {"row": doc, "prompt": prompt}


CASES: tuple[Case, ...] = (
    lmms_case(
        "seed:test", seed, "seedbench.utils", "seed_process_result", "seed_aggregation_result"
    ),
    lmms_case("scienceqa:test", scienceqa, "scienceqa.utils", "sqa_process_results"),
)
