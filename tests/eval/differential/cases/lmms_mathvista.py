"""MathVista: scores of lmms-eval with an LLM judge."""

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

from tests.eval.differential.case import Case, Record
from tests.eval.differential.checkout import Checkout, Replies
from tests.eval.differential.lmms_eval import Doc, answers_to, sets, task, without_reasoning
from tests.eval.differential.made_up import choice_row, filled

TASKS = "lmms_eval.tasks"


def mathvista(harness: Checkout, random: Random) -> Iterator[Record]:
    """MathVista: answers that the judge extracts from responses that are not bare answers."""
    module = task(harness, "mathvista.utils")
    evaluator = module.mathvista_evaluator
    docs = [mathvista_doc(random, n) for n in range(120)]
    pairs = answers_to(random, docs, mathvista_choices, mathvista_right, 2200)
    results: list[Mapping[str, Any]] = []
    for doc, answer in pairs:
        judge = Replies(
            [random.choice((mathvista_right(doc), doc["answer"], "(A)", "7", "x", "[1]"))]
        )
        evaluator.get_chat_response = judge.generate
        text = without_reasoning(harness, answer)
        result = module.mathvista_process_results(doc, [text])["llm_as_judge_eval"]
        results.append(result)
        score = float(result["true_false"])
        yield {"row": doc, "answer": answer, "replies": judge.used, "score": score}

    def aggregate(own: Sequence[int]) -> float:
        # It removes the metadata from its results.
        some = [dict(results[number]) for number in own]
        return (module.mathvista_aggregate_results(some, None) or 0.0) / 100

    yield from sets(random, [[number] for number in range(len(pairs))], aggregate)
    kind = {"shot_type": "format-prompt", "shot": 0, "use_caption": False, "use_ocr": False}
    for doc in docs:
        yield {"row": doc, "prompt": module.mathvista_doc_to_text(doc, kind)}


def mathvista_doc(random: Random, index: int) -> Doc:
    """A problem of one of MathVista's types."""
    kind = random.choice(("choices", "integer", "float", "list"))
    choices = list(filled(choice_row(random, index, odd=0.05)).values())
    answer, precision = {
        "choices": (random.choice(choices), None),
        "integer": (random.choice(("0", "7", "14", "-3")), None),
        "float": (random.choice(("0.0", "1.2", "3.5", "0.75")), random.choice((1.0, 2.0, 1, 2))),
        "list": ("[1, 2]", None),
    }[kind]
    metadata = {"split": "testmini", "task": "textbook", "language": "en", "source": "x"}
    metadata |= {"category": "math", "context": "y", "grade": "z", "skills": ["a"]}
    return {
        "pid": str(index),
        "question": "How many are there?",
        "query": "Hint: x\nQuestion: How many are there?",
        "question_type": "multi_choice" if kind == "choices" else "free_form",
        "answer_type": "text" if kind == "choices" else kind,
        "choices": choices if kind == "choices" else None,
        "answer": answer,
        "precision": precision,
        "unit": random.choice((None, "$", "")),
        "metadata": metadata,
    }


def mathvista_choices(doc: Doc) -> dict[str, str]:
    """The choices of a problem, or numbers instead."""
    return dict(zip("ABCD", doc["choices"] or ("7", doc["answer"], "1.25"), strict=False))


def mathvista_right(doc: Doc) -> str:
    """The target: a letter or an answer."""
    return "ABCD"[doc["choices"].index(doc["answer"])] if doc["choices"] else doc["answer"]


CASES: tuple[Case, ...] = (
    Case(
        "mathvista:testmini",
        "lmms-eval",
        "lmms-eval",
        tuple(f"{TASKS}.mathvista.utils.mathvista_{n}_results" for n in ("process", "aggregate")),
        mathvista,
        rounding=1e-2,
    ),
)
