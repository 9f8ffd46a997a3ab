"""Multiple-choice benchmarks of lmms-eval with an LLM judge or a random letter."""

import ast
from collections.abc import Iterator, Mapping
from random import Random
from types import SimpleNamespace
from typing import Any

from mgm.eval.benchmarks.mmmu import MMMU
from mgm.eval.harness.question import Question
from tests.eval.differential.case import Case, Record
from tests.eval.differential.checkout import Checkout, Replies
from tests.eval.differential.lmms_eval import (
    LETTER_PROMPT,
    SHORT_PROMPT,
    Doc,
    Draws,
    answers_to,
    sets,
    task,
    without_reasoning,
)
from tests.eval.differential.made_up import choice_row, filled

TASKS = "lmms_eval.tasks"
RANDOM = "the harness draws a letter in the order of evaluation; ours draws by the question"
UNJUDGED = "the harness draws a letter where the judge names none three times; ours is wrong there"


def mmbench(harness: Checkout, random: Random) -> Iterator[Record]:
    """MMBench: rules, then a judge, or letter patterns in the static task."""
    module, evals = task(harness, "mmbench.en_utils"), task(harness, "mmbench.mmbench_evals")
    draws = Draws(evals, "rd")
    docs, groups = [], []
    for index in range(750):
        first = mmbench_row(random, index)
        letters = list(filled(first, "ABCD"))
        own = [first]
        for turn in range(1, len(letters)):
            moved = [*letters[turn:], *letters[:turn]]
            row = first | {new: first[old] for new, old in zip(letters, moved, strict=True)}
            row["answer"] = letters[moved.index(first["answer"])]
            own.append(row | {"index": index + turn * 10**6})
        groups.append(range(len(docs), len(docs) + len(own)))
        docs += own
    pairs = answers_to(random, docs, shown, lambda doc: doc["answer"], len(docs))[: len(docs)]
    pairs = [(doc, doc["answer"] if random.random() < 0.5 else text) for doc, text in pairs]
    results = [
        module.mmbench_process_results(doc, [without_reasoning(harness, answer)])["gpt_eval_score"]
        for doc, answer in pairs
    ]
    for (doc, answer), result in zip(pairs, results, strict=True):
        score = mmbench_score(evals, result, static_only=True)
        yield {"row": doc, "answer": answer, "score": score}
    evaluator = evals.MMBench_Evaluator()
    yield from sets(
        random,
        groups,
        lambda own: float(evaluator.eval_result([results[n] for n in own], "static")[0]),
    )
    for (doc, answer), result in zip(pairs[:400], results, strict=False):
        replies = [mmbench_reply(random, doc) for _ in range(3)]
        judge = Replies(replies)
        score = mmbench_score(evals, result, judge=judge)
        outcome = {"drawn": True} if draws.pop() else {"score": score}
        yield {"row": doc, "answer": answer, "replies": judge.used} | outcome
    for index in range(120):
        doc = mmbench_row(random, index, odd=0.4)
        yield {"row": doc, "prompt": module.mmbench_doc_to_text(doc, SHORT_PROMPT)}


def mmbench_row(random: Random, index: int, odd: float = 0.05) -> Doc:
    """A row of the data set, in which "nan" and None are missing choices."""
    row: Doc = dict(choice_row(random, index, odd=odd))
    empty = random.choice(("nan", "nan", None))
    row |= {letter: empty for letter in "ABCD" if not row[letter]}
    row |= {"index": index, "E": random.choice(("nan", "nan", "an E")), "split": "dev"}
    return row | {
        "hint": random.choice(("nan", "nan", "Look at it.", "", "None")),
        "L2-category": "x",
        "source": "s",
    }


def shown(doc: Doc) -> dict[str, str]:
    """The choices that exist."""
    return {letter: doc[letter] for letter in "ABCD" if doc[letter] not in ("nan", None)}


def mmbench_score(
    evals: Any, result: Mapping[str, Any], static_only: bool = False, judge: Replies | None = None
) -> float:
    """The score of one response, as `eval_sub_data` gives it to a question with one round."""
    import pandas

    evaluator = evals.MMBench_Evaluator()
    if judge is not None:
        evaluator.get_chat_response = judge.generate
    table = pandas.DataFrame([result])
    answers = {result["index"]: result["answer"]}
    return float(evaluator.eval_sub_data(table, answers, static_only=static_only))


def mmbench_reply(random: Random, doc: Doc) -> str:
    """A reply of the judge."""
    forms = ("{l}", "{l}.", "E", "({l})", "hm", "I am not sure", "A or B", "The answer is {l}")
    return random.choice(forms).format(l=random.choice((doc["answer"], "A")))


def hrbench(harness: Checkout, random: Random) -> Iterator[Record]:
    """HR-Bench: rules and a judge; the harness raises if neither finds a letter."""
    module = task(harness, "hrbench.utils")
    evaluator = module.hrbench_evaluator
    docs = []
    for n in range(120):
        row: Doc = dict(choice_row(random, n, odd=0.05))
        row |= {letter: None for letter in "ABCD" if not row[letter]}
        kinds = {"category": random.choice(("single", "cross")), "cycle_category": str(n % 4)}
        docs.append(row | kinds)
    pairs = answers_to(random, docs, shown, lambda doc: doc["answer"])
    results = []
    for doc, answer in pairs:
        evaluator._post_request = _unreachable
        text = without_reasoning(harness, answer)
        try:
            results.append(module.hrbench_process_results(doc, [text])["average"])
        except KeyError:
            results.append(None)
            yield {"row": doc, "answer": answer, "raises": True}
        else:
            yield {"row": doc, "answer": answer, "score": results[-1]["gpt_score"]}
    scored = [[number] for number, result in enumerate(results) if result is not None]
    yield from sets(
        random,
        scored,
        lambda own: module.hrbench_aggregate_results([results[n] for n in own], None),
    )
    for doc, answer in pairs[:400]:
        judge = Replies([random.choice((doc["answer"], "Z", "(B)", f"{doc['answer']}."))])
        evaluator._post_request = lambda payload, judge=judge: {
            "choices": [{"message": {"content": judge.generate()}}]
        }
        text = without_reasoning(harness, answer)
        if random.choice("ab") and "B" not in shown(doc):
            continue  # the harness raises for a reply without a choice
        score = module.hrbench_process_results(doc, [text])["average"]["gpt_score"]
        yield {"row": doc, "answer": answer, "replies": judge.used, "score": score}
    for doc in docs:
        yield {"row": doc, "prompt": module.hrbench_doc_to_text(doc)}


def _unreachable(payload: object) -> object:
    raise OSError("there is no judge")


def mmmu_docs(random: Random, count: int) -> list[Doc]:
    """Records of MMMU's data set."""
    docs = []
    for n in range(count):
        choices = list(filled(choice_row(random, n, "ABCDEF", odd=0.05)).values())
        is_open = n % 5 == 4
        answer = random.choice(("6", "twelve", "3.5", "0.75", "['6', 'six']", "leukocyte", "x"))
        if not is_open:
            answer = "ABCDEF"[random.randrange(len(choices))]
        images = random.choice(("", " <image 1>", " <image 2> and <image 1>"))
        subject = random.choice(("Art", "Music", "Computer_Science"))
        docs.append(
            {
                "id": f"validation_{subject}_{n}",
                "question": f"What is it?{images}",
                "options": str([] if is_open else [*choices[:-1], choices[-1] + images[:10]]),
                "question_type": "open" if is_open else "multiple-choice",
                "answer": answer,
            }
        )
    return docs


def mmmu_choices(doc: Doc) -> dict[str, str]:
    """The choices of a record of MMMU by letter."""
    options = ast.literal_eval(doc["options"])
    return dict(zip("ABCDEF", options or ("6", "twelve", "is 3.5"), strict=False))


def mmmu(harness: Checkout, random: Random) -> Iterator[Record]:
    """MMMU: the harness's parser of choices; open questions are compared character by character."""
    module = task(harness, "mmmu.utils")
    draws = Draws(harness.module(f"{TASKS}._task_utils.mmmu_mcq_utils"), "random")
    docs = mmmu_docs(random, 120)
    results = []
    pairs = answers_to(random, docs, mmmu_choices, lambda doc: doc["answer"], 3600)
    for doc, answer in pairs:
        text = without_reasoning(harness, answer)
        result = module.mmmu_process_results(doc, [text])["mmmu_acc"]
        record = {"row": doc, "answer": answer}
        if draws.pop():
            results.append(None)
            yield record | {"drawn": True}
        else:
            results.append(result)
            yield record | {"score": module.evaluate_mmmu([result])[1]["acc"]}
    scored = [[number] for number, result in enumerate(results) if result is not None]
    yield from sets(
        random,
        scored,
        lambda own: module.mmmu_aggregate_results([results[n] for n in own]),
    )
    forms = {
        "prompt_type": "format",
        "multiple_choice_prompt": LETTER_PROMPT,
        "open_ended_prompt": "Answer the question using a single word or phrase.",
    }
    for doc in docs:
        pictures = doc | {f"image_{n}": _Picture(n) for n in range(1, 8)}
        images = [one.number for one in module.mmmu_doc_to_visual(pictures)]
        yield {"row": doc, "prompt": module.mmmu_doc_to_text(doc, forms), "images": images}


class _Picture(SimpleNamespace):
    def __init__(self, number: int) -> None:
        super().__init__(number=number)

    def convert(self, mode: str) -> "_Picture":
        return self


def mmmu_question(record: Record, protocol: str = "lmms-eval") -> Question:
    """The question of a record of MMMU, with seven images."""
    row = record["row"]
    images = {f"image_{n}": {"bytes": f"{n}.png".encode()} for n in range(1, 8)}
    subject = row["id"].split("_", 1)[1].rpartition("_")[0]
    return MMMU().question(row | images, subject, protocol, row["id"])


def drawn(record: Record) -> str | None:
    """Why a random letter differs."""
    if not record.get("drawn"):
        return None
    return UNJUDGED if "replies" in record else RANDOM


CASES: tuple[Case, ...] = (
    Case(
        "mmbench:dev",
        "lmms-eval",
        "lmms-eval",
        tuple(
            f"{TASKS}.mmbench.mmbench_evals.MMBench_Evaluator.{name}"
            for name in ("eval_sub_data", "eval_result")
        ),
        mmbench,
        differs=drawn,
    ),
    Case(
        "hrbench:4k",
        "lmms-eval",
        "lmms-eval",
        tuple(f"{TASKS}.hrbench.utils.hrbench_{n}_results" for n in ("process", "aggregate")),
        hrbench,
    ),
    Case(
        "mmmu:val",
        "lmms-eval",
        "lmms-eval",
        tuple(f"{TASKS}.mmmu.utils.mmmu_{n}_results" for n in ("process", "aggregate")),
        mmmu,
        question=mmmu_question,
        differs=drawn,
        rounding=1e-3,
    ),
)
