"""MMMU and MMMU-Pro as scored by their authors, SEED-Bench and ScienceQA by LLaVA."""

import io
import json
import re
import runpy
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from unittest.mock import patch

from mgm.eval.harness.question import Question
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
    """MMMU: `evaluate` with the parsers' results."""
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
    score_responses = [[number] for number, result in enumerate(results) if result is not None]
    yield from sets(
        random, score_responses, lambda own: module.evaluate([results[n] for n in own])[1]["acc"]
    )


def mmmu_pro(harness: Checkout, random: Random) -> Iterator[Record]:
    """MMMU-Pro: the letter after the last "Answer:", or as in MMMU."""
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
        result = module.mmmu_process_results(doc | {"response": answer})
        if draws.pop():
            rights.append(None)
            yield {"row": doc, "answer": answer, "drawn": True}
        else:
            rights.append(float(result["if_right"]))
            yield {"row": doc, "answer": answer, "score": rights[-1]}
    score_responses = [[number] for number, right in enumerate(rights) if right is not None]
    yield from sets(random, score_responses, lambda own: sum(rights[n] for n in own) / len(own))


def seed(harness: Checkout, random: Random) -> Iterator[Record]:
    """SEED-Bench: the response must be only the letter."""
    module = harness.module("convert_seed_for_submission", "scripts")
    module.ques_type_id_to_name = {1: "Scene"}
    docs = [
        {"question_id": f"v_{n}", "data_type": "image", "question_type_id": 1, "answer": right}
        for n, right in enumerate(random.choices("ABCD", k=2200))
    ]
    choices = dict.fromkeys("ABCD", "red")
    pairs = answers_to(random, docs, lambda doc: choices, lambda doc: doc["answer"], 2200)
    pairs = [(doc, doc["answer"] if random.random() < 0.3 else text) for doc, text in pairs[:2200]]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "answers.jsonl"

        def accuracy(some: list[int]) -> float:
            selected = [pairs[number] for number in some]
            lines = [
                json.dumps({"question_id": doc["question_id"], "text": text})
                for doc, text in selected
            ]
            file.write_text("\n".join(lines))
            module.data = {"questions": [doc for doc, _ in selected]}
            with redirect_stdout(io.StringIO()) as printed:
                try:
                    module.eval_single(str(file))
                except KeyError:  # it raises if no response is right
                    return 0.0
            (percent,) = re.findall(r"Total accuracy: ([\d.]+)%", printed.getvalue())
            return float(percent) / 100

        for number, (doc, answer) in enumerate(pairs):
            yield {"row": doc, "answer": answer, "score": accuracy([number])}
        yield from sets(random, [[number] for number in range(len(pairs))], accuracy)


def seed_question(record: Record) -> Question:
    """A question of SEED-Bench."""
    return Question(record["row"]["question_id"], "?", target=record["row"]["answer"])


def scienceqa(harness: Checkout, random: Random) -> Iterator[Record]:
    """ScienceQA: a script that reads and writes files."""
    problems = {}
    for n in range(2200):
        choices = list(filled(choice_row(random, n, "ABCDE", odd=0.05)).values())
        problems[str(n)] = {"choices": choices, "answer": random.randrange(len(choices))}
    docs = [{"id": name, **problem} for name, problem in problems.items()]
    pairs = answers_to(
        random,
        docs,
        lambda doc: dict(zip("ABCDE", doc["choices"], strict=False)),
        lambda doc: "ABCDE"[doc["answer"]],
        2200,
    )[:2200]
    with TemporaryDirectory() as folder:
        run = partial(_run_scienceqa, harness, Path(folder), problems, pairs)
        right = {one["question_id"] for one in run(range(2200))["correct"]}
        for doc, answer in pairs:
            yield {"row": doc, "answer": answer, "score": float(doc["id"] in right)}
        singles = [[number] for number in range(2200)]
        yield from sets(random, singles, lambda own: len(run(own)["correct"]) / len(own))


def _run_scienceqa(
    harness: Checkout,
    folder: Path,
    problems: dict[str, dict],
    pairs: list[tuple[dict, str]],
    numbers: list[int],
) -> dict[str, list]:
    """Responses by question number, sorted into right and wrong ones."""
    names = [str(number) for number in numbers]
    (folder / "pid_splits.json").write_text(json.dumps({"test": names}))
    (folder / "problems.json").write_text(json.dumps(problems))
    lines = [
        json.dumps({"question_id": name, "text": pairs[int(name)][1], "prompt": "<image>"})
        for name in names
    ]
    (folder / "answers.jsonl").write_text("\n".join(lines))
    files = {"base-dir": "", "result-file": "answers.jsonl"}
    files |= {"output-file": "out.json", "output-result": "result.json"}
    words = [word for name, file in files.items() for word in (f"--{name}", str(folder / file))]
    script = str(harness.path / "llava" / "eval" / "eval_science_qa.py")
    with patch.object(sys, "argv", [script, *words]), redirect_stdout(io.StringIO()):
        runpy.run_path(script, run_name="__main__")
    return json.loads((folder / "out.json").read_text())


def scienceqa_question(record: Record) -> Question:
    """A question of ScienceQA."""
    row = record["row"]
    metadata = {"choices": row["choices"]}
    return Question(row["id"], "?", target="ABCDE"[row["answer"]], metadata=metadata)


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
    Case(
        "seed:test",
        "paper",
        "llava",
        ("scripts.convert_seed_for_submission.eval_single",),
        seed,
        question=seed_question,
        rounding=0.006,
    ),
    Case(
        "scienceqa:test",
        "paper",
        "llava",
        ("llava.eval.eval_science_qa",),
        scienceqa,
        question=scienceqa_question,
    ),
)
