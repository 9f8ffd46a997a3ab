"""Open-ended benchmarks: prompts and scores of lmms-eval."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from random import Random
from types import SimpleNamespace
from typing import Any

from tests.eval.differential.case import Case, Record, sets_of
from tests.eval.differential.checkout import Checkout
from tests.eval.differential.made_up_text import (
    long_answers,
    peoples_answers,
    short_answer,
    short_truth,
    yes_no_answer,
)

TASKS = "lmms_eval.tasks"
KINDS = ("adversarial", "popular", "random")
QUESTIONS = (
    *(
        "Is there a dog in the image?",
        "WHAT is it, and where?",
        " How many are there? ",
        "图中是什么?",
    ),
    *("what does the sign say?\n", "What is the McDonald's slogan", "", "Is ${x} here?"),
)
COMPLETE = 2100  # responses of a fixture, and a few long ones
Row = dict[str, Any]
Scorer = Callable[[Checkout, Row, str], Any]


def as_scored(harness: Checkout, answer: str) -> str:
    """A response as tasks get it: `evaluate` removes reasoning, `process_results` whitespace."""
    strip = harness.module("lmms_eval.api.reasoning").strip_reasoning_tags
    tags = [["<think>", "</think>"], ["<analysis>", "</analysis>"]]  # default of --reasoning_tags
    return strip(answer, tags).strip()


def task_options(harness: Checkout, path: str) -> Mapping[str, Any]:
    """The default `lmms_eval_specific_kwargs` of a task's YAML file."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda _, node: node.value)
    file = harness.path / "lmms_eval" / "tasks" / path
    content = yaml.load(file.read_text(encoding="utf-8"), Loader)
    return content["lmms_eval_specific_kwargs"]["default"]


def answers_to(
    random: Random, rows: Sequence[Row], make: Callable[[Random, Row], str]
) -> list[tuple[Row, str]]:
    """Rows with responses, some of them long; rows repeat in order."""
    pairs = [(rows[n % len(rows)], make(random, rows[n % len(rows)])) for n in range(COMPLETE)]
    return pairs + [(rows[n], text) for n, text in enumerate(long_answers("Yes"))]


def prompts(
    harness: Checkout, rows: Sequence[Row], task: str, file: str, name: str
) -> Iterator[Record]:
    """Prompts by the task's function."""
    function = getattr(harness.module(f"{TASKS}.{task}.utils"), name)
    options = task_options(harness, f"{task}/{file}")
    for row in rows:
        yield {"row": row, "prompt": function(deepcopy(row), options)}


def means(random: Random, scores: Sequence[float]) -> Iterator[Record]:
    """Sets of responses with the harness's `mean` as metric."""
    for own in sets_of(random, [[number] for number in range(len(scores))]):
        yield {"set": own, "score": 100 * sum(scores[n] for n in own) / len(own)}


def of_rows(
    rows: Callable[[Random], list[Row]],
    score: Scorer,
    make: Callable[[Random, Row], str],
    prompt: tuple[str, str, str],
) -> Callable[[Checkout, Random], Iterator[Record]]:
    """Records of a benchmark that scores responses one by one."""

    def record(harness: Checkout, random: Random) -> Iterator[Record]:
        scores = []
        own = rows(random)
        for row, answer in answers_to(random, own, make):
            scores.append(float(score(harness, deepcopy(row), as_scored(harness, answer))))
            yield {"row": row, "answer": answer, "score": scores[-1]}
        yield from means(random, scores)
        yield from prompts(harness, rows(random) + rows(random), *prompt)

    return record


def _question(random: Random) -> str:
    return random.choice(QUESTIONS)


# --- Yes or no


def pope_rows(random: Random) -> list[Row]:
    return [
        {"question": _question(random), "answer": random.choice(("yes", "no", "Yes", "No ")),
         "category": random.choice(KINDS), "question_id": str(n)}
        for n in range(60)
    ]  # fmt: skip


def record_pope(harness: Checkout, random: Random) -> Iterator[Record]:
    """Accuracy of each response, and F1 of sets."""
    task = harness.module(f"{TASKS}.pope.utils")
    results = []
    rows = pope_rows(random)
    for row, answer in answers_to(
        random, rows, lambda r, row: yes_no_answer(r, row["answer"].strip().lower())
    ):
        result = task.pope_process_results(deepcopy(row), [as_scored(harness, answer)])
        results.append(result["pope_f1_score"])
        yield {"row": row, "answer": answer, "score": result["pope_accuracy"]["score"]}
    for own in sets_of(random, [[number] for number in range(len(results))]):
        yield {"set": own, "score": 100 * task.pope_aggregate_f1_score([results[n] for n in own])}
    yield from prompts(harness, rows + pope_rows(random), "pope", "pope.yaml", "pope_doc_to_text")


MME_KINDS = ("existence", "count", "OCR", "code_reasoning", "text_translation", "artwork")


def mme_rows(random: Random) -> list[Row]:
    """Two questions per image; an image in two categories counts twice."""
    suffix = " Please answer yes or no."
    endings = (suffix, suffix, f"{suffix} ", "")
    return [
        {"question": f"{_question(random).strip() or 'Is it?'} {question}{random.choice(endings)}",
         "answer": answer, "category": kind, "question_id": f"{kind}/{n % 20}.png"}
        for n in range(30)
        for kind in (random.choice(MME_KINDS),)
        for question, answer in (("A?", "Yes"), ("B?", random.choice(("No", "no"))))
    ]  # fmt: skip


def record_mme(harness: Checkout, random: Random) -> Iterator[Record]:
    """Score of each response, and the sums of perception and cognition of sets of images."""
    task = harness.module(f"{TASKS}.mme.utils")
    results: list[tuple[str, dict]] = []
    images: dict[tuple[str, int], list[int]] = defaultdict(list)
    rows = mme_rows(random)
    pairs = answers_to(random, rows, lambda r, row: yes_no_answer(r, row["answer"].lower()))
    for number, (row, answer) in enumerate(pairs):
        ((metric, result),) = task.mme_process_results(
            deepcopy(row), [as_scored(harness, answer)]
        ).items()
        turn = number // len(rows) if number < COMPLETE else -1
        images[row["question_id"], turn].append(number)
        results.append((metric, result | {"question_id": f"{row['question_id']} {turn}"}))
        yield {"row": row | {"question_id": f"{row['question_id']} {turn}"}, "answer": answer,
               "score": result["score"]}  # fmt: skip
    whole = [own for own in images.values() if len(own) == 2]
    for own in sets_of(random, whole):
        metrics: dict[str, list[dict]] = defaultdict(list)
        for number in own:
            metrics[results[number][0]].append(results[number][1])
        yield {"set": own, "score": sum(map(task.mme_aggregate_results, metrics.values()))}
    yield from prompts(harness, rows + mme_rows(random), "mme", "mme.yaml", "mme_doc_to_text")


# --- Short answers


def people_rows(random: Random) -> list[Row]:
    return [
        {"question": _question(random), "answers": peoples_answers(random), "question_id": n,
         "category": "other"}
        for n in range(60)
    ]  # fmt: skip


def vqav2_rows(random: Random) -> list[Row]:
    return [
        {"question": _question(random), "question_id": n, "image_id": n // 3,
         "answer_type": "other",
         "answers": [{"answer": text, "answer_confidence": "yes", "answer_id": k}
                     for k, text in enumerate(peoples_answers(random), start=1)]}
        for n in range(60)
    ]  # fmt: skip


def of_people(random: Random, row: Row) -> str:
    """A response that is one of the human answers."""
    texts = [one["answer"] if isinstance(one, dict) else one for one in row["answers"]]
    return short_answer(random, texts)


def process(task: str, name: str, metric: str) -> Scorer:
    """The metric of a response by a task's `process_results`."""

    def score(harness: Checkout, row: Row, answer: str) -> Any:
        return getattr(harness.module(f"{TASKS}.{task}.utils"), name)(row, [answer])[metric]

    return score


def gqa_rows(random: Random) -> list[Row]:
    return [
        {"question": _question(random), "answer": short_truth(random), "id": str(n),
         "imageId": str(n // 2), "types": {"structural": "query"}}
        for n in range(60)
    ]  # fmt: skip


def exact_match(harness: Checkout, row: Row, answer: str) -> float:
    """The metric of GQA's YAML file, which ignores case and punctuation."""
    match = harness.module("lmms_eval.api.metrics").exact_match_hf_evaluate
    result = match([answer], [row["answer"]], ignore_case=True, ignore_punctuation=True)
    return float(result["exact_match"])


def document_rows(random: Random) -> list[Row]:
    return [
        {"question": _question(random), "questionId": str(n),
         "answers": [short_truth(random) for _ in range(random.randint(1, 3))]}
        for n in range(60)
    ]  # fmt: skip


def similarity(harness: Checkout, row: Row, answer: str) -> float:
    """The metric of DocVQA's and InfoVQA's YAML files."""
    return harness.module("lmms_eval.api.metrics").anls(row["answers"], [answer])["anls"]


def chart_rows(random: Random) -> list[Row]:
    return [
        {"question": _question(random), "answer": short_truth(random),
         "type": random.choice(("human_test", "augmented_test"))}
        for n in range(60)
    ]  # fmt: skip


def of_number(random: Random, row: Row) -> str:
    """A number near the target, or any response."""
    try:
        number = float(row["answer"].rstrip("%"))
        near = number * random.choice((1, 1.05, 0.95, 1.0501, 0.949, 1.049, -1, 100, 0.01))
        if random.random() < 0.4:
            return f"{near:.6g}" + random.choice(("", "", "%", " ", "%%", "."))
    except ValueError:
        pass
    return short_answer(random, [row["answer"]])


OCR_KINDS = (
    *("Regular Text Recognition", "Handwriting Recognition", "Doc-oriented VQA"),
    *("Scene Text-centric VQA", "Key Information Extraction"),
)
FORMULAS = "Handwritten Mathematical Expression Recognition"


def ocr_rows(random: Random) -> list[Row]:
    rows = []
    for n in range(60):
        formula = n % 6 == 0
        texts = [short_truth(random) for _ in range(random.randint(1, 3))]
        if formula:
            texts = [f"\\frac {{ {text} }} {{ 2 }}\n+ x" for text in texts]
        rows.append(
            {"question": _question(random), "answer": texts,
             "dataset": "HME100k" if formula else random.choice(("IIIT5K", "TextVQA")),
             "question_type": FORMULAS if formula else random.choice(OCR_KINDS)}
        )  # fmt: skip
    return rows


def ocr_score(harness: Checkout, row: Row, answer: str) -> float:
    """The score within `ocrbench_accuracy`."""
    task = harness.module(f"{TASKS}.ocrbench.utils")
    return task.ocrbench_process_results(row, [answer])["ocrbench_accuracy"]["score"]


def count_rows(random: Random) -> list[Row]:
    return [
        {"question": _question(random), "number": random.randint(2, 10),
         "text": random.choice(("Two dogs on a bench", "", None, "A set of 6 cups"))}
        for n in range(60)
    ]  # fmt: skip


def of_count(random: Random, row: Row) -> str:
    """The target, another number, or any response."""
    return short_answer(random, [str(row["number"])] * 3 + ["7", "1", "12"])


def record_mmvet(harness: Checkout, random: Random) -> Iterator[Record]:
    """Grades in a judge's replies, and means over sets."""
    os.environ.setdefault("OPENAI_API_KEY", "none")  # a missing one fails the import
    task = harness.module(f"{TASKS}.mmvet.utils")
    results = []
    rows = mmvet_rows(random)
    for number in range(COMPLETE):
        row = rows[number % len(rows)]
        answer = short_answer(random, [row["answer"]])
        judge = _MMVetJudge(judge_replies(random, tries=4))
        task.get_chat_response = judge.reply
        task.time = SimpleNamespace(sleep=judge.wait)
        clean = as_scored(harness, answer)
        result = task.mmvet_process_results(deepcopy(row), [clean])["gpt_eval_score"]
        results.append(result)
        record = {"row": row, "answer": answer, "replies": judge.used, "score": result["score"]}
        yield record | ({"judge_prompt": judge.prompt} if number < 100 else {})
    for own in sets_of(random, [[number] for number in range(len(results))]):
        yield {"set": own, "score": task.mmvet_aggregate_results([results[n] for n in own])}
    yield from prompts(harness, rows + mmvet_rows(random), "mmvet", "mmvet.yaml", "doc_to_text")


class _MMVetJudge:
    """Returns replies in order; the harness drops the reply after a wait."""

    def __init__(self, replies: Sequence[str]) -> None:
        self._left, self._waited = list(replies), False
        self.used: list[str] = []
        self.prompt = ""

    def reply(self, prompt: str, **_: object) -> tuple[str, str]:
        self.prompt = prompt
        if self._waited:
            self._waited = False
            return "thrown away", "model"
        self.used.append(self._left.pop(0))
        return self.used[-1].strip(), "model"

    def wait(self, _: float) -> None:
        self._waited = True


MARKS = ("0", "1", "0.0", "1.0", "0.5", "0.7", "1.00", ".4", "1.", "0.3 ", "\n0.6", " 0.5", "1e-1")
NO_MARKS = (
    "100%",
    "0,7",
    "none",
    "Score: 0.5",
    "0.5.",
    "0.5/1",
    "**0.5**",
    "½",
    "0.5\n0.6",
    "x 0.2",
)
COMMENTED = ("0.9 since it is right", "1.0 (totally right)", "0.2 | 0.3")
BEYOND = ("10", "-0.1", "1.01", "2")


def judge_replies(random: Random, tries: int) -> list[str]:
    """Replies of a judge: mostly a grade at once, sometimes after others, or none."""
    bad = random.choice((0, 0, 0, 0, 1, 1, 2, tries))
    wrong = [random.choice(NO_MARKS) for _ in range(bad)]
    if bad and bad < tries and random.random() < 0.5:
        wrong[random.randrange(bad)] = random.choice(BEYOND)
    return [*wrong, *[random.choice(MARKS + COMMENTED) for _ in range(tries - bad)]]


def mmvet_rows(random: Random) -> list[Row]:
    abilities = ("rec", "ocr", "know", "gen", "spat", "math")
    return [
        {"question": _question(random), "question_id": f"v1_{n}",
         "answer": random.choice(("a<AND>b", "x<OR>y <OR> z", "a cat", "1 <AND> 2")),
         "capability": ",".join(random.sample(abilities, random.randint(1, 3)))}
        for n in range(60)
    ]  # fmt: skip


def _case(
    benchmark: str, functions: Sequence[str], record: Callable[..., Any], **more: Any
) -> Case:
    return Case(benchmark, "lmms-eval", "lmms-eval", tuple(functions), record, **more)


def _task(name: str, *functions: str) -> tuple[str, ...]:
    return tuple(f"{TASKS}.{name}.utils.{one}" for one in functions)


METRICS = "lmms_eval.api.metrics"
CASES: tuple[Case, ...] = (
    _case(
        "pope:test",
        _task("pope", "pope_process_results", "pope_aggregate_f1_score", "pope_doc_to_text"),
        record_pope,
    ),
    _case(
        "mme:test",
        _task("mme", "mme_process_results", "mme_aggregate_results", "mme_doc_to_text"),
        record_mme,
    ),
    _case(
        "textvqa:val",
        _task("textvqa", "textvqa_process_results", "textvqa_doc_to_text"),
        of_rows(
            people_rows,
            process("textvqa", "textvqa_process_results", "exact_match"),
            of_people,
            ("textvqa", "_default_template_textvqa_yaml", "textvqa_doc_to_text"),
        ),
    ),
    _case(
        "vizwiz:val",
        _task("vizwiz_vqa", "vizwiz_vqa_process_results", "vizwiz_vqa_doc_to_text"),
        of_rows(
            people_rows,
            process("vizwiz_vqa", "vizwiz_vqa_process_results", "exact_match"),
            of_people,
            ("vizwiz_vqa", "_default_template_vqa_yaml", "vizwiz_vqa_doc_to_text"),
        ),
    ),
    _case(
        "vqav2:val",
        _task("vqav2", "vqav2_process_results_val", "vqav2_doc_to_text"),
        of_rows(
            vqav2_rows,
            process("vqav2", "vqav2_process_results_val", "exact_match"),
            of_people,
            ("vqav2", "_default_template_vqav2_yaml", "vqav2_doc_to_text"),
        ),
    ),
    _case(
        "gqa:testdev",
        (f"{METRICS}.exact_match_hf_evaluate", *_task("gqa", "gqa_doc_to_text")),
        of_rows(
            gqa_rows,
            exact_match,
            lambda random, row: short_answer(random, [row["answer"]]),
            ("gqa", "gqa.yaml", "gqa_doc_to_text"),
        ),
    ),
    _case(
        "docvqa:val",
        (f"{METRICS}.anls", *_task("docvqa", "docvqa_doc_to_text")),
        of_rows(
            document_rows,
            similarity,
            of_people,
            ("docvqa", "_default_template_docvqa_yaml", "docvqa_doc_to_text"),
        ),
    ),
    _case(
        "infovqa:val",
        (f"{METRICS}.anls", *_task("infovqa", "infovqa_doc_to_text")),
        of_rows(
            document_rows,
            similarity,
            of_people,
            ("infovqa", "_default_template_infovqa_yaml", "infovqa_doc_to_text"),
        ),
    ),
    _case(
        "chartqa:test",
        _task("chartqa", "chartqa_process_results", "chartqa_doc_to_text"),
        of_rows(
            chart_rows,
            process("chartqa", "chartqa_process_results", "relaxed_overall"),
            of_number,
            ("chartqa", "chartqa.yaml", "chartqa_doc_to_text"),
        ),
    ),
    _case(
        "ocrbench:test",
        _task("ocrbench", "ocrbench_process_results", "ocrbench_doc_to_text"),
        of_rows(
            ocr_rows,
            ocr_score,
            lambda random, row: short_answer(random, row["answer"]),
            ("ocrbench", "ocrbench.yaml", "ocrbench_doc_to_text"),
        ),
    ),
    _case(
        "countbenchqa:test",
        _task("countbenchqa", "countbenchqa_process_results", "countbenchqa_doc_to_text"),
        of_rows(
            count_rows,
            process("countbenchqa", "countbenchqa_process_results", "acc"),
            of_count,
            ("countbenchqa", "countbenchqa.yaml", "countbenchqa_doc_to_text"),
        ),
    ),
    _case(
        "mmvet:test",
        _task("mmvet", "mmvet_process_results", "mmvet_aggregate_results", "doc_to_text"),
        record_mmvet,
    ),
)
