"""MMMU and MMMU-Pro as their authors score them."""

from collections.abc import Iterator
from functools import partial
from random import Random

from tests.eval.differential.case import Case, Record
from tests.eval.differential.cases.lmms_judged import (
    drawn,
    mmmu_choices,
    mmmu_docs,
    mmmu_question,
)
from tests.eval.differential.checkout import Checkout
from tests.eval.differential.lmms_eval import Draws, answers_to, sets
from tests.eval.differential.made_up import choice_row, filled


def mmmu(harness: Checkout, random: Random) -> Iterator[Record]:
    """MMMU: `evaluate` over what the parsers find."""
    module = harness.module("utils.eval_utils", "mmmu")
    draws = Draws(module, "random")
    docs = mmmu_docs(random, 120)
    results = []
    for doc, answer in answers_to(random, docs, mmmu_choices, lambda doc: doc["answer"], 4400):
        gold = doc["answer"]
        if doc["question_type"] == "open":
            parsed = module.parse_open_response(answer)
            gold = ["6", "six"] if gold.startswith("[") else gold
        else:
            names = mmmu_choices(doc)
            parsed = module.parse_multi_choice_response(answer, list(names), names)
        kinds = {"id": doc["id"], "question_type": doc["question_type"]}
        result = {**kinds, "answer": gold, "parsed_pred": parsed}
        if draws.pop():
            results.append(None)
            yield {"row": doc, "answer": answer, "drawn": True}
        else:
            results.append(result)
            yield {"row": doc, "answer": answer, "score": module.evaluate([result])[1]["acc"]}
    scored = [[number] for number, result in enumerate(results) if result is not None]
    yield from sets(
        random, scored, lambda own: module.evaluate([results[n] for n in own])[1]["acc"]
    )


def mmmu_pro(harness: Checkout, random: Random) -> Iterator[Record]:
    """MMMU-Pro: a letter behind the last "Answer:", or as in MMMU."""
    module = harness.module("evaluate", "mmmu-pro")
    draws = Draws(module, "random")
    docs = []
    for n in range(120):
        choices = list(filled(choice_row(random, n, "ABCDEFGHIJ", odd=0.05)).values())
        answer = "ABCDEFGHIJ"[random.randrange(len(choices))]
        names = {"id": f"test_Art_{n}", "subject": "Art"}
        docs.append({**names, "options": str(choices), "answer": answer})
    rights = []
    for doc, answer in answers_to(random, docs, mmmu_choices, lambda doc: doc["answer"], 4400):
        found = module.mmmu_process_results(doc | {"response": answer})
        if draws.pop():
            rights.append(None)
            yield {"row": doc, "answer": answer, "drawn": True}
        else:
            rights.append(float(found["if_right"]))
            yield {"row": doc, "answer": answer, "score": rights[-1]}
    scored = [[number] for number, right in enumerate(rights) if right is not None]
    yield from sets(random, scored, lambda own: sum(rights[n] for n in own) / len(own))


EVAL = "mmmu.utils.eval_utils"
CASES: tuple[Case, ...] = (
    *(
        Case(
            "mmmu:val",
            protocol,
            "mmmu",
            tuple(
                f"{EVAL}.{name}"
                for name in ("parse_multi_choice_response", "parse_open_response", "evaluate")
            ),
            mmmu,
            question=partial(mmmu_question, protocol=protocol),
            differs=drawn,
        )
        for protocol in ("official", "paper")
    ),
    Case(
        "mmmu-pro:vision",
        "official",
        "mmmu",
        ("mmmu-pro.evaluate.mmmu_process_results",),
        mmmu_pro,
        differs=drawn,
    ),
)
