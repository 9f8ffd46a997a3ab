"""Open-ended benchmarks as scored by their authors and by LLaVA's published scripts.

`record --official` takes llava (haotian-liu/LLaVA), pope (AoiDragon/POPE), mm-vet
(yuweihao/MM-Vet), rrc (the evaluator of the DocVQA challenge in eval_mm/ of QwenLM/Qwen-VL) and mme
(MME's calculation.py in internvl_chat/eval/mme/ of forks of OpenGVLab/InternVL).
"""

import io
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

from mgm.eval.harness.question import Question
from tests.eval.differential.case import Case, Record, sets_of
from tests.eval.differential.cases import open_ended_lmms_eval as common
from tests.eval.differential.checkout import Checkout
from tests.eval.differential.made_up_text import (
    peoples_answers,
    short_answer,
    yes_no_answer,
)

Row = dict[str, Any]


def restore_question(record: Record) -> Question:
    """A question with the fields that a scorer reads."""
    row = record["row"]
    return Question(
        row.get("id", "1"),
        "",
        target=row["answer"],
        group=row.get("image", ""),
        category=row.get("category", ""),
        metadata=row.get("facts", {}),
    )


def printed(run: Callable[[], object]) -> list[str]:
    """The lines that a script prints."""
    output = io.StringIO()
    with redirect_stdout(output):
        run()
    return output.getvalue().splitlines()


def run_script(path: Path, source: str, *words: str) -> None:
    """Run a script with command-line options."""
    before = sys.argv
    sys.argv = [str(path), *words]
    try:
        exec(compile(source, str(path), "exec"), {"__name__": "__main__"})
    finally:
        sys.argv = before


def write_lines(path: Path, records: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return path


# --- POPE


def of_pope(
    f1: Callable[[Checkout, Sequence[str], Sequence[str]], tuple[float, float]],
) -> Callable[..., Any]:
    """Records of POPE: each answer, and the mean of the kinds' F1 of sets.

    Args:
        f1: F1 and accuracy that the harness prints for answers and labels.
    """

    def record(harness: Checkout, random: Random) -> Iterator[Record]:
        rows = [
            {"answer": random.choice(("yes", "no")), "category": kind}
            for _ in range(20)
            for kind in common.KINDS
        ]
        pairs = common.answers_to(random, rows, lambda r, row: yes_no_answer(r, row["answer"]))
        kinds: dict[str, list[int]] = defaultdict(list)
        for number, (row, answer) in enumerate(pairs):
            # With one true positive and one true negative: the scripts divide by both counts.
            _, accuracy = f1(harness, ["yes", "no", answer], ["yes", "no", row["answer"]])
            kinds[row["category"]].append(number)
            yield {"row": row, "answer": answer, "score": round(3 * accuracy - 2)}
        right = {(kind, label): next(n for n in own if pairs[n][0]["answer"] == label
                                     and pairs[n][1].strip().lower() == label)
                 for kind, own in kinds.items() for label in ("yes",)}  # fmt: skip
        for _ in range(300):
            chosen, scores = [], []
            for kind, own in kinds.items():
                numbers = [right[kind, "yes"], *random.sample(own, random.randint(1, 30))]
                texts, labels = zip(
                    *[(pairs[n][1], pairs[n][0]["answer"]) for n in numbers], strict=True
                )
                scores.append(f1(harness, texts, labels)[0])
                chosen += numbers
            yield {"set": chosen, "score": 100 * sum(scores) / len(scores)}

    return record


def llavas_f1(
    harness: Checkout, texts: Sequence[str], labels: Sequence[str]
) -> tuple[float, float]:
    """F1 by LLaVA's `eval_pope`."""
    module = harness.module("llava.eval.eval_pope")
    with tempfile.TemporaryDirectory() as folder:
        file = write_lines(Path(folder) / "labels.json", [{"label": one} for one in labels])
        answers = [{"text": one} for one in texts]
        return _f1_and_accuracy(printed(lambda: module.eval_pope(answers, str(file))))


def authors_f1(
    harness: Checkout, texts: Sequence[str], labels: Sequence[str]
) -> tuple[float, float]:
    """F1 by POPE's `evaluate.py`, which has two hard-coded paths."""
    script = harness.path / "evaluate.py"
    with tempfile.TemporaryDirectory() as folder:
        answers = write_lines(Path(folder) / "answers.json", [{"answer": one} for one in texts])
        file = write_lines(Path(folder) / "labels.json", [{"label": one} for one in labels])
        source = script.read_text(encoding="utf-8")
        source = source.replace("ans_file = ''", f"ans_file = {str(answers)!r}")
        source = source.replace("label_file = ''", f"label_file = {str(file)!r}")
        return _f1_and_accuracy(printed(lambda: run_script(script, source)))


def _f1_and_accuracy(lines: Sequence[str]) -> tuple[float, float]:
    values = dict(line.split(": ") for line in lines if ": " in line)
    return float(values["F1 score"]), float(values["Accuracy"])


# --- MME


def record_mme(harness: Checkout, random: Random) -> Iterator[Record]:
    """Score of each response, and the sum of all categories of sets, by `calculation.py`."""
    before, sys.argv = sys.argv, ["calculation.py"]
    try:
        module = harness.module("calculation")
    finally:
        sys.argv = before
    # Only scikit-learn's accuracy is needed; other metrics are not used.
    module.accuracy_score = lambda gts, preds: sum(map(int.__eq__, gts, preds)) / len(gts)
    module.confusion_matrix = lambda *_, **__: ((0, 0), (0, 0))
    module.precision_score = module.recall_score = lambda *_, **__: 0
    calculation = module.calculate_metrics()
    kinds = [kind for own in module.eval_type_dict.values() for kind in own]
    rows = [
        {"id": f"{kind} {n} {label}", "image": f"{kind}/{n}.png", "category": kind, "answer": label}
        for kind in kinds
        for n in range(2)
        for label in ("yes", random.choice(("yes", "no")))
    ]
    pairs = common.answers_to(random, rows, lambda r, row: yes_no_answer(r, row["answer"]))
    images: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, (row, answer) in enumerate(pairs):
        turn = number // len(rows) if number < common.COMPLETE else number
        row = row | {"image": f"{row['image']} {turn}"}
        images[row["category"]][row["image"]].append(number)
        parsed = calculation.parse_pred_ans(_in_a_line(answer).lower())
        yield {"row": row, "answer": answer, "score": float(parsed == row["answer"])}
    whole = {
        kind: [own for own in by_image.values() if len(own) == 2]
        for kind, by_image in images.items()
    }
    for _ in range(300):
        chosen = {kind: [n for pair in random.sample(by_image, random.randint(1, 5)) for n in pair]
                  for kind, by_image in whole.items()}  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            for kind, own in chosen.items():
                lines = [
                    f"{n}\tIs it?\t{pairs[n][0]['answer'].title()}\t{_in_a_line(pairs[n][1])}\n"
                    for n in own
                ]
                (Path(folder) / f"{kind}.txt").write_text(
                    "".join(lines), encoding="utf-8", newline=""
                )
            lines = printed(lambda folder=folder: calculation.process_result(folder))
        totals = [float(line.split(": ")[1]) for line in lines if line.startswith("total score")]
        yield {"set": [n for own in chosen.values() for n in own], "score": sum(totals)}


def _in_a_line(answer: str) -> str:
    """A response in its line of the evaluator's file."""
    return " ".join(answer.replace("\t", " ").splitlines()) if answer.strip("\n") else " "


# --- Short answers


def people_rows(random: Random) -> list[Row]:
    return [{"answer": peoples_answers(random)} for _ in range(60)]


def record_textvqa(harness: Checkout, random: Random) -> Iterator[Record]:
    """Score of each response, and the accuracy of sets by `TextVQAAccuracyEvaluator`."""
    module = harness.module("llava.eval.m4c_evaluator")
    module.tqdm = lambda entries: entries
    evaluator = module.TextVQAAccuracyEvaluator()
    entries = []
    make = lambda r, row: short_answer(r, row["answer"])  # noqa: E731
    for row, answer in common.answers_to(random, people_rows(random), make):
        entries.append({"pred_answer": answer, "gt_answers": row["answer"]})
        yield {"row": row, "answer": answer, "score": evaluator.eval_pred_list(entries[-1:])}
    for own in sets_of(random, [[number] for number in range(len(entries))]):
        yield {"set": own, "score": 100 * evaluator.eval_pred_list([entries[n] for n in own])}


def record_documents(harness: Checkout, random: Random) -> Iterator[Record]:
    """Score of each response, and of sets by the challenge's `evaluate_method`."""
    module = harness.module("infographicsvqa_eval", "eval_mm")
    rows = [{"answer": row["answers"]} for row in common.document_rows(random)]
    make = lambda r, row: short_answer(r, row["answer"])  # noqa: E731
    pairs = common.answers_to(random, rows, make)
    options = SimpleNamespace(answer_types=False, anls_threshold=0.5)

    def evaluated(numbers: Sequence[int]) -> dict:
        with tempfile.TemporaryDirectory() as folder:
            truths, answers = Path(folder) / "truths.json", Path(folder) / "answers.json"
            truths.write_text(json.dumps({"data": [
                {"questionId": n, "question": "", "answers": pairs[n][0]["answer"]} for n in numbers
            ]}))  # fmt: skip
            answers.write_text(
                json.dumps([{"questionId": n, "answer": pairs[n][1]} for n in numbers])
            )
            return module.evaluate_method(str(truths), str(answers), options)

    scores = evaluated(range(len(pairs)))["per_sample_result"]
    for number, (row, answer) in enumerate(pairs):
        yield {"row": row, "answer": answer, "score": float(scores[str(number)]["score"])}
    for own in sets_of(random, [[number] for number in range(len(pairs))]):
        yield {"set": own, "score": 100 * evaluated(own)["result"]["score"]}


def record_gqa(harness: Checkout, random: Random) -> Iterator[Record]:
    """Whether each response, as `convert_gqa_for_eval.py` writes it, equals the target."""
    script = harness.path / "scripts" / "convert_gqa_for_eval.py"
    source = script.read_text(encoding="utf-8")
    rows = [{"answer": row["answer"].lower()} for row in common.gqa_rows(random)]
    pairs = common.answers_to(random, rows, lambda r, row: short_answer(r, [row["answer"]]))
    with tempfile.TemporaryDirectory() as folder:
        texts = [{"question_id": n, "text": answer} for n, (_, answer) in enumerate(pairs)]
        file, target = write_lines(Path(folder) / "a.jsonl", texts), Path(folder) / "b.json"
        run_script(script, source, "--src", str(file), "--dst", str(target))
        predictions = [one["prediction"] for one in json.loads(target.read_text())]
    scores = []
    for (row, answer), prediction in zip(pairs, predictions, strict=True):
        scores.append(float(prediction == row["answer"]))
        yield {"row": row, "answer": answer, "score": scores[-1]}
    yield from common.means(random, scores)


# --- Judged


def record_mmvet(harness: Checkout, random: Random) -> Iterator[Record]:
    """Grades in a judge's replies, and means over sets."""
    module = harness.module("mm-vet_evaluator")
    rows = [
        {"answer": row["answer"], "category": row["capability"].replace(",", "_"),
         "facts": {"question": row["question"]}}
        for row in common.mmvet_rows(random)
    ]  # fmt: skip
    module.tqdm = lambda items: items
    scores = []
    for number in range(common.COMPLETE):
        row = rows[number % len(rows)]
        answer = short_answer(random, [row["answer"]])
        judge = _ChatJudge(common.judge_replies(random, tries=5))
        module.client = SimpleNamespace(chat=SimpleNamespace(completions=judge))
        scores.append(_grade(module, row, answer))
        # After the last attempt it sends one more request, and ignores the reply.
        record = {"row": row, "answer": answer, "replies": judge.used[:5], "score": scores[-1]}
        yield record | ({"judge_prompt": judge.prompt} if number < 100 else {})
    yield from common.means(random, scores)


def _grade(module: ModuleType, row: Row, answer: str) -> float:
    """The grade of one response; MM-Vet's evaluator reads and writes files."""
    data = {"v1_0": {"question": row["facts"]["question"], "answer": row["answer"]}}
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        result = Path(folder) / "result.json"
        result.write_text(json.dumps({"v1_0": answer}))
        options = SimpleNamespace(
            result_file=str(result), num_run=1, gpt_model="model", prompt=module.prompt
        )
        grades = module.runs(options, str(Path(folder) / "grades.json"), data, 1)
    return float(grades["v1_0"]["score"][0])


class _ChatJudge:
    """Completions of OpenAI's client, in order."""

    def __init__(self, replies: Sequence[str]) -> None:
        self._left = list(replies)
        self.used: list[str] = []
        self.prompt = ""

    def create(self, messages: Sequence[dict[str, str]], **_: object) -> SimpleNamespace:
        self.prompt = self.prompt or messages[0]["content"]
        self.used.append(self._left.pop(0) if self._left else "1.0")
        message = SimpleNamespace(content=self.used[-1])
        return SimpleNamespace(model="model", choices=[SimpleNamespace(message=message)])


REVIEWS = (
    *(
        "8 9",
        "8 9\nBoth are good.",
        "10 5",
        "7.5 8",
        "9,8",
        "8.5,7",
        "1 10\n\nwhy",
        "5 5",
        "2 4",
    ),
    *("9 9", "6 3", "10 10", "3 7", "4 1", "8 7.5\nsince 2 3", "8 9.", "5 0", "1e1 2"),
)
BAD_REVIEWS = (
    *(
        "8 9 ",
        " 8 9",
        "8  9",
        "8\t9",
        "Assistant 1: 8, Assistant 2: 9",
        "8",
        "8/10 9/10",
        "",
    ),
    *(
        "Score: 8 9",
        "\n8 9",
        "8 nine",
        "**8 9**",
        "8 9 10",
        "9, 8",
        "8;9",
        "9 , 8",
        "8 and 9",
        "[8, 9]",
    ),
)


def record_llava_bench(harness: Checkout, random: Random) -> Iterator[Record]:
    """Marks in a judge's reviews, and results of `summarize_gpt_review.py` for sets."""
    module = harness.module("llava.eval.eval_gpt_review_bench")
    script = harness.path / "llava" / "eval" / "summarize_gpt_review.py"
    source = script.read_text(encoding="utf-8")
    metadata = {"caption": "a caption", "prompt": "What is it?"}
    tuples = []
    for number in range(common.COMPLETE):
        bad = random.choice((0, 0, 0, 0, 0, 1, 2, 3))
        replies = [random.choice(BAD_REVIEWS) for _ in range(bad)]
        replies += [random.choice(REVIEWS)] * (bad < 3)
        # It does not retry: the last reply counts.
        with redirect_stdout(io.StringIO()):
            marks = module.parse_score(replies[-1])
        tuples.append(marks)
        row = {
            "answer": "a dog",
            "category": ("conv", "detail", "complex")[number % 3],
            "facts": metadata,
        }
        yield {"row": row, "answer": f"a cat {number}", "replies": replies,
               "score": min(max(marks[1] / 10, 0), 1)}  # fmt: skip
    for own in sets_of(random, [[number] for number in range(len(tuples))], count=320):
        if sum(tuples[n][0] for n in own) <= 0:
            continue
        with tempfile.TemporaryDirectory() as folder:
            reviews = [{"question_id": n, "tuple": tuples[n]} for n in own]
            file = write_lines(Path(folder) / "review.jsonl", reviews)
            lines = printed(lambda f=file: run_script(script, source, "-f", str(f)))
        value = next(line.split()[1] for line in lines if line.startswith("all "))
        yield {"set": own, "score": float(value)}


def _case(
    benchmark: str, protocol: str, harness: str, functions: Sequence[str], record: Any, **more: Any
) -> Case:
    return Case(
        benchmark, protocol, harness, tuple(functions), record, question=restore_question, **more
    )


M4C = "llava.eval.m4c_evaluator.TextVQAAccuracyEvaluator"
CASES: tuple[Case, ...] = (
    _case("pope:test", "paper", "llava", ("llava.eval.eval_pope.eval_pope",), of_pope(llavas_f1)),
    _case("pope:test", "official", "pope", ("evaluate.py",), of_pope(authors_f1)),
    _case("mme:test", "paper", "mme", ("calculation.calculate_metrics",), record_mme),
    _case("textvqa:val", "paper", "llava", (M4C,), record_textvqa),
    _case("textvqa-no-ocr:val", "paper", "llava", (M4C,), record_textvqa),
    _case(
        "docvqa:val", "official", "rrc", ("infographicsvqa_eval.evaluate_method",), record_documents
    ),
    _case(
        "infovqa:val",
        "official",
        "rrc",
        ("infographicsvqa_eval.evaluate_method",),
        record_documents,
    ),
    _case("gqa:testdev", "paper", "llava", ("scripts/convert_gqa_for_eval.py",), record_gqa),
    _case("mmvet:test", "paper", "mm-vet", ("mm-vet_evaluator.runs",), record_mmvet),
    _case(
        "llava-bench:test",
        "paper",
        "llava",
        ("llava.eval.eval_gpt_review_bench.parse_score", "summarize_gpt_review.py"),
        record_llava_bench,
        rounding=0.15,
    ),
)
