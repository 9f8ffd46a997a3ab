"""Open-ended benchmarks: prompts and scores of VLMEvalKit."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from tests.eval.differential.case import Case, Record, sets_of
from tests.eval.differential.cases import open_ended_lmms_eval as common
from tests.eval.differential.checkout import Checkout, Replies
from tests.eval.differential.made_up_text import short_answer, short_truth, yes_no_answer

UTILS = "vlmeval.dataset.utils"
VQA = "vlmeval.dataset.image_vqa"
YORN = "vlmeval.dataset.image_yorn"
Row = dict[str, Any]


def table_rows(
    random: Random, make: Callable[[Random], dict[str, Any]], count: int = 60
) -> list[Row]:
    """Rows of a table, with string values only."""
    return [
        {"index": str(n), "question": random.choice(common.QUESTIONS)} | make(random)
        for n in range(count)
    ]


def prompts(
    harness: Checkout, rows: Sequence[Row], module: str, kind: str, dataset: str
) -> Iterator[Record]:
    """Prompts by a data set's `build_prompt`."""
    owner = getattr(harness.module(module), kind)
    for row in rows:
        itself = owner.__new__(owner)
        itself.__dict__.update(meta_only=True, dataset_name=dataset)
        itself.dump_image = lambda line: ["1.png"]
        parts = owner.build_prompt(itself, row | {"image_path": "1.png"})
        yield {"row": row, "prompt": "".join(p["value"] for p in parts if p["type"] == "text")}


# --- Yes or no


def yes_no_rows(random: Random, categories: Sequence[str]) -> list[Row]:
    return table_rows(
        random,
        lambda draw: {"answer": draw.choice(("Yes", "No")), "category": draw.choice(categories)},
    )


def yes_no_answers(
    harness: Checkout, random: Random, rows: Sequence[Row]
) -> list[tuple[Row, str, str]]:
    """Rows, responses, and what the harness extracts from them."""
    extract = harness.module(f"{UTILS}.yorn").YOrN_Extraction
    pairs = common.answers_to(random, rows, lambda r, row: yes_no_answer(r, row["answer"].lower()))
    return [(row, answer, extract(answer)) for row, answer in pairs]


def judged_answers(harness: Checkout, random: Random, rows: Sequence[Row]) -> Iterator[Record]:
    """Responses without yes or no, which a judge interprets."""
    module = harness.module(f"{UTILS}.yorn")
    says = (
        "Yes",
        "No",
        "Yes.",
        "**No**",
        "Unknown",
        "Yes or no",
        "",
        "It is a no",
        "Your output: Yes",
    )
    for number in range(200):
        row = rows[number % len(rows)]
        answer = random.choice(("There is a dog", "nope", "", "yes and no", "I see none", "maybe"))
        judge = Replies([random.choice(says) for _ in range(5)])
        judged = module.YOrN_auxeval(judge, row | {"prediction": answer})
        yield {"row": row, "answer": answer, "replies": judge.used,
               "score": float(judged == row["answer"])}  # fmt: skip


def record_pope(harness: Checkout, random: Random) -> Iterator[Record]:
    """Score of each response, and F1 of sets, including questions of several categories."""
    import pandas

    module = harness.module(f"{UTILS}.yorn")
    kinds = (
        "adversarial",
        "popular",
        "random",
        "adversarial,popular",
        "adversarial,popular,random",
    )
    rows = yes_no_rows(random, kinds)
    extractions = yes_no_answers(harness, random, rows)
    table = []
    for row, answer, extracted in extractions:
        score = row["answer"] == extracted
        table.append(row | {"extracted": extracted, "score": score})
        yield {"row": row, "answer": answer, "score": float(score)}
    for own in sets_of(random, [[number] for number in range(len(table))]):
        module.load = lambda _, own=own: pandas.DataFrame([table[n] for n in own])
        rating = module.POPE_rating("")
        yield {"set": own, "score": float(rating["Overall"].iloc[0])}
    yield from judged_answers(harness, random, rows)
    more = rows + yes_no_rows(random, kinds)
    yield from prompts(harness, more, YORN, "ImageYORNDataset", "POPE")


def record_mme(harness: Checkout, random: Random) -> Iterator[Record]:
    """Score of each response, and the sum of sets with all categories."""
    import pandas

    module = harness.module(f"{UTILS}.yorn")
    kinds = [
        *("OCR", "artwork", "celebrity", "color", "count", "existence", "landmark", "position"),
        *("posters", "scene", "code_reasoning", "commonsense_reasoning", "numerical_calculation"),
        "text_translation",
    ]
    rows = [
        row | {"category": kind, "image_path": f"{kind}/{n // 2}.jpg"}
        for n, row in enumerate(yes_no_rows(random, ("x",))[:56])
        for kind in (kinds[(n // 2) % len(kinds)],)
    ]
    images: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    table = []
    for number, (row, answer, extracted) in enumerate(yes_no_answers(harness, random, rows)):
        path = f"{row['image_path']} {number // len(rows) if number < common.COMPLETE else number}"
        row = row | {"image_path": path}
        score = row["answer"] == extracted
        table.append(row | {"score": float(score)})
        images[row["category"]][path].append(number)
        yield {"row": row, "answer": answer, "score": float(score)}
    whole = {
        kind: [own for own in by_image.values() if len(own) == 2]
        for kind, by_image in images.items()
    }
    for _ in range(300):
        own = [
            n
            for pairs in whole.values()
            for pair in random.sample(pairs, random.randint(1, 5))
            for n in pair
        ]
        module.load = lambda _, own=own: pandas.DataFrame([table[n] for n in own])
        rating = module.MME_rating("").iloc[0]
        yield {"set": own, "score": float(rating["perception"]) + float(rating["reasoning"])}
    yield from judged_answers(harness, random, rows)
    more = yes_no_rows(random, kinds) + yes_no_rows(random, kinds)
    yield from prompts(harness, more, YORN, "ImageYORNDataset", "MME")


# --- Short answers


def of_lines(
    dataset: str,
    method: str,
    rows: Callable[[Random], list[Row]],
    make: Callable[[Random, Row], str],
) -> Callable[[Checkout, Random], Iterator[Record]]:
    """Records of a benchmark that `ImageVQADataset` evaluates line by line."""

    def record(harness: Checkout, random: Random) -> Iterator[Record]:
        module = harness.module(f"{UTILS}.vqa_eval")
        scores = []
        own = rows(random)
        for row, answer in common.answers_to(random, own, make):
            line = module.process_line(
                {"answer": row["answer"], "prediction": answer}, method=method
            )
            scores.append(float(module.hit_calculate([line], dataset)[0]))
            yield {"row": row, "answer": answer, "score": scores[-1]}
        yield from common.means(random, scores)
        yield from prompts(harness, own + rows(random), VQA, "ImageVQADataset", dataset)

    return record


def listed_rows(random: Random) -> list[Row]:
    """Rows with a list of targets as text; a few with one target that is not a list."""

    def answer(draw: Random) -> dict[str, Any]:
        texts = [short_truth(draw) for _ in range(draw.randint(1, 3))]
        if draw.random() < 0.2 and not texts[0].startswith("["):
            return {"answer": texts[0]}
        return {"answer": str(texts)}

    return table_rows(random, answer)


def people_rows(random: Random) -> list[Row]:
    return table_rows(random, lambda draw: {"answer": str(common.peoples_answers(draw))})


def chart_rows(random: Random) -> list[Row]:
    splits = ("test_human", "test_augmented")
    return [row | {"split": random.choice(splits)} for row in listed_rows(random)]


def right_texts(row: Row) -> list[str]:
    """The targets of a row."""
    text = row["answer"]
    try:
        targets = eval(text) if text.startswith("[") else [text]
    except (SyntaxError, NameError):
        return [text]
    return list(targets)


def any_answer(random: Random, row: Row) -> str:
    """A response that contains a target, or another one."""
    texts = [str(text) for text in right_texts(row)]
    if random.random() < 0.3:
        return common.of_number(random, {"answer": random.choice(texts or ["1"])})
    return short_answer(random, texts)


def record_ocrbench(harness: Checkout, random: Random) -> Iterator[Record]:
    """Score of each response as a data set of its own, and the normalised score of sets."""
    import pandas

    module = harness.module(VQA)
    own = [
        {"index": str(n), "question": row["question"], "answer": str(row["answer"]),
         "category": row["question_type"]}
        for n, row in enumerate(common.ocr_rows(random))
    ]  # fmt: skip
    module.tqdm = lambda numbers: numbers
    module.dump = lambda *_: None
    module.get_intermediate_file_path = lambda *_: ""

    def points(lines: Sequence[Row]) -> float:
        module.load = lambda _: pandas.DataFrame(lines)
        return module.OCRBench.evaluate("")["Final Score"]

    lines = []
    for row, answer in common.answers_to(random, own, any_answer):
        lines.append(row | {"prediction": answer})
        yield {"row": row, "answer": answer, "score": float(points(lines[-1:]))}
    for chosen in sets_of(random, [[number] for number in range(len(lines))]):
        total = points([lines[n] for n in chosen])
        yield {"set": chosen, "score": 100 * total / len(chosen)}
    more = own + [row | {"question": random.choice(common.QUESTIONS)} for row in own]
    yield from prompts(harness, more, VQA, "OCRBench", "OCRBench")


def record_countbenchqa(harness: Checkout, random: Random) -> Iterator[Record]:
    """Score of each response as a data set of its own, and the accuracy of sets."""
    import pandas

    module = harness.module(VQA)
    own = table_rows(random, lambda draw: {"answer": str(draw.randint(2, 10))})
    module.dump = lambda *_: None
    module.get_intermediate_file_path = lambda *_: ""

    def accuracy(lines: Sequence[Row]) -> float:
        module.load = lambda _: pandas.DataFrame(lines)
        itself = module.CountBenchQA.__new__(module.CountBenchQA)
        module.d2df = lambda result: credits.append(result["accuracy"])
        credits: list[float] = []
        itself.evaluate("")
        return credits[0]

    lines = []
    for row, answer in common.answers_to(random, own, any_answer):
        lines.append(row | {"prediction": answer})
        yield {"row": row, "answer": answer, "score": accuracy(lines[-1:]) / 100}
    for chosen in sets_of(random, [[number] for number in range(len(lines))]):
        yield {"set": chosen, "score": accuracy([lines[n] for n in chosen])}
    more = own + [row | {"question": random.choice(common.QUESTIONS)} for row in own]
    yield from prompts(harness, more, VQA, "CountBenchQA", "CountBenchQA")


def record_mmvet(harness: Checkout, random: Random) -> Iterator[Record]:
    """Grades in a judge's replies, and means over sets."""
    import pandas

    module = harness.module(f"{UTILS}.mmvet")
    abilities = ("rec", "ocr", "know", "gen", "spat", "math")
    own = table_rows(
        random,
        lambda draw: {
            "answer": draw.choice(("a<AND>b", "x<OR>y <OR> z", "a cat", "1 <AND> 2")),
            "category": ",".join(draw.sample(abilities, draw.randint(1, 3))),
        },
    )
    table = []
    for number in range(common.COMPLETE):
        row = own[number % len(own)]
        answer = short_answer(random, [row["answer"]])
        line = row | {"prediction": answer}
        judge = Replies(common.judge_replies(random, tries=5))
        result = module.MMVet_auxeval(judge, line)
        table.append(line | {"score": result["score"]})
        record = {"row": row, "answer": answer, "replies": judge.used, "score": result["score"]}
        prompt = module.build_mmvet_gpt4_prompt(line)
        yield record | ({"judge_prompt": prompt} if number < 100 else {})
    # The rating by ability divides by numbers of questions, which must not be 0.
    every = [next(n for n, row in enumerate(own) if one in row["category"]) for one in abilities]
    for chosen in sets_of(random, [[number] for number in range(len(table))]):
        numbers = [*every, *chosen]
        module.load = lambda _, numbers=numbers: pandas.DataFrame([table[n] for n in numbers])
        rating, _ = module.MMVet_acc("")
        overall = rating[rating["Category"] == "Overall"]["acc"].iloc[0]
        yield {"set": numbers, "score": float(overall)}
    yield from prompts(harness, own + own, VQA, "MMVet", "MMVet")


def _case(
    benchmark: str, functions: Sequence[str], record: Callable[..., Any], **more: Any
) -> Case:
    return Case(benchmark, "vlmevalkit", "vlmevalkit", tuple(functions), record, **more)


LINE = (f"{UTILS}.vqa_eval.process_line", f"{UTILS}.vqa_eval.hit_calculate")
VQA_PROMPT = f"{VQA}.ImageVQADataset.build_prompt"
YES_NO_PROMPT = f"{YORN}.ImageYORNDataset.build_prompt"
CASES: tuple[Case, ...] = (
    _case(
        "pope:test",
        (
            f"{UTILS}.yorn.YOrN_Extraction",
            f"{UTILS}.yorn.YOrN_auxeval",
            f"{UTILS}.yorn.POPE_rating",
            YES_NO_PROMPT,
        ),
        record_pope,
    ),
    _case(
        "mme:test",
        (
            f"{UTILS}.yorn.YOrN_Extraction",
            f"{UTILS}.yorn.YOrN_auxeval",
            f"{UTILS}.yorn.MME_rating",
            YES_NO_PROMPT,
        ),
        record_mme,
    ),
    _case(
        "textvqa:val",
        (*LINE, VQA_PROMPT),
        of_lines("TextVQA_VAL", "vqa_score", people_rows, any_answer),
    ),
    _case(
        "docvqa:val", (*LINE, VQA_PROMPT), of_lines("DocVQA_VAL", "anls", listed_rows, any_answer)
    ),
    _case(
        "infovqa:val", (*LINE, VQA_PROMPT), of_lines("InfoVQA_VAL", "anls", listed_rows, any_answer)
    ),
    _case(
        "chartqa:test",
        (*LINE, VQA_PROMPT),
        of_lines("ChartQA_TEST", "relaxed_accuracy", chart_rows, any_answer),
    ),
    _case(
        "ocrbench:test",
        (f"{VQA}.OCRBench.evaluate", f"{VQA}.OCRBench.build_prompt"),
        record_ocrbench,
    ),
    _case(
        "countbenchqa:test",
        (f"{VQA}.CountBenchQA.evaluate", f"{VQA}.CountBenchQA.build_prompt"),
        record_countbenchqa,
    ),
    _case(
        "mmvet:test",
        (
            f"{UTILS}.mmvet.MMVet_auxeval",
            f"{UTILS}.mmvet.MMVet_acc",
            f"{UTILS}.mmvet.build_mmvet_gpt4_prompt",
            f"{VQA}.MMVet.build_prompt",
        ),
        record_mmvet,
    ),
)
