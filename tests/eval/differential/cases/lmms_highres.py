"""High-resolution multiple-choice benchmarks: prompts and scores of lmms-eval."""

from collections.abc import Iterator
from random import Random

from tests.eval.differential.case import Case, Record
from tests.eval.differential.checkout import Checkout
from tests.eval.differential.lmms_eval import (
    LETTER_PROMPT,
    SHORT_PROMPT,
    Doc,
    answers_to,
    lettered,
    lmms_case,
    mean,
    sets,
    simple,
    task,
    without_reasoning,
)
from tests.eval.differential.made_up import WORDS, choice_row, filled


def vstar(harness: Checkout, random: Random) -> Iterator[Record]:
    """V*: the letter by the first matching pattern."""
    module = task(harness, "vstar_bench.utils")
    docs = []
    for n in range(120):
        words = [random.choice(WORDS) for _ in range(random.choice((0, 2, 4, 4, 5)))]
        choices = "".join(
            f" ({letter}) {word}" for letter, word in zip("ABCDE", words, strict=False)
        )
        text = f"What colour is it?{choices}".replace(" (", random.choice((" (", "\n(")))
        category = random.choice(("direct_attributes", "relative_position"))
        docs.append(
            {"text": text, "label": random.choice("ABCD"), "question_id": n, "category": category}
        )
    pairs = answers_to(
        random, docs, lambda doc: dict.fromkeys("ABCD", "red"), lambda doc: doc["label"]
    )
    yield from simple(
        harness,
        random,
        pairs,
        lambda doc, results: module.vstar_process_results(doc, results)["vstar_overall_acc"],
        lambda results: module.vstar_aggregate_results(results) / 100,
    )
    for doc in docs:
        yield {"row": doc, "prompt": module.vstar_doc_to_text(doc, SHORT_PROMPT)}


def mme_realworld(harness: Checkout, random: Random) -> Iterator[Record]:
    """MME-RealWorld: the first capital letter."""
    module = task(harness, "mme_realworld.utils")
    docs = []
    for n in range(120):
        listed = [f"({letter}) {random.choice(WORDS)}" for letter in "ABCDE"]
        category = random.choice(("Perception/Monitoring", "Reasoning/Diagram and Table"))
        kinds = {"category": category, "l2-category": random.choice(("count", "Attribute/x"))}
        docs.append(
            {"index": n, "question": "Which one?", "multi-choice options": listed, **kinds}
            | {"answer": random.choice("ABCDE")}
        )
    pairs = answers_to(
        random,
        docs,
        lambda doc: {one[1]: one[4:] for one in doc["multi-choice options"]},
        lambda doc: doc["answer"],
    )
    yield from simple(
        harness,
        random,
        pairs,
        lambda doc, results: module.mme_realworld_process_results(doc, results)[
            "mme_realworld_score"
        ],
        module.mme_realworld_aggregate_results,
    )
    for doc in docs:
        yield {"row": doc, "prompt": module.mme_realworld_doc_to_text(doc)}


def ai2d(harness: Checkout, random: Random) -> Iterator[Record]:
    """AI2D: a filter extracts the letter before reasoning is removed."""
    module = task(harness, "ai2d.utils")
    metric = harness.module("lmms_eval.api.metrics").exact_match_hf_evaluate
    letter_filter = module.MultiChoiceRegexFilter()
    docs = []
    for n in range(120):
        choices = list(filled(choice_row(random, n)).values())
        answer = str(random.randrange(len(choices)))
        docs.append({"question": random.choice(WORDS), "options": choices, "answer": answer})

    def score(doc: Doc, answer: str) -> float:
        (filtered,) = letter_filter.apply([[answer]], [doc])
        result = metric(
            predictions=[without_reasoning(harness, filtered)],
            references=[module.ai2d_doc_to_target(doc, "mcq")],
            ignore_case=True,
            ignore_punctuation=True,
        )
        return float(result["exact_match"])

    pairs = answers_to(random, docs, lettered("options"), lambda doc: "ABCD"[int(doc["answer"])])
    scores = [score(doc, answer) for doc, answer in pairs]
    for (doc, answer), own in zip(pairs, scores, strict=True):
        yield {"row": doc, "answer": answer, "score": own}
    singles = [[number] for number in range(len(pairs))]
    yield from sets(random, singles, lambda own: mean([scores[n] for n in own]))
    for doc in docs:
        prompt = module.ai2d_doc_to_text(doc, {"prompt_format": "mcq", **SHORT_PROMPT})
        yield {"row": doc, "prompt": prompt}


def realworldqa(harness: Checkout, random: Random) -> Iterator[Record]:
    """RealWorldQA: letters, and short answers by exact match."""
    module = task(harness, "realworldqa.utils")
    docs = []
    for n in range(120):
        choices = filled(choice_row(random, n))
        lines = "\n".join(f"{letter}. {text}" for letter, text in choices.items())
        end = "Please answer directly with only the letter of the correct option and nothing else."
        answer = random.choice([*choices, *choices, "3", "Downhill", "Yes", "b"])
        docs.append({"question": f"Which one?\n{lines}\n{end}", "answer": answer})
    pairs = answers_to(
        random, docs, lambda doc: {"A": "dog", "B": "left"}, lambda doc: doc["answer"]
    )
    yield from simple(
        harness,
        random,
        pairs,
        lambda doc, results: module.realworldqa_process_results(doc, results)["exact_match"],
        mean,
    )
    for doc in docs:
        yield {"row": doc, "prompt": module.realworldqa_doc_to_text(doc, {"post_prompt": ""})}


def mmvp(harness: Checkout, random: Random) -> Iterator[Record]:
    """MMVP: pairs of rows."""
    module = task(harness, "mmvp.utils")
    docs = []
    for n in range(2100):
        first, second = random.sample(("open", "closed", "two", "a wing", "left one"), 2)
        docs.append(
            {"Index": n + 1, "Question": "Is it open?", "Options": f"(a) {first} (b) {second}"}
            | {"Correct Answer": random.choice(("(a)", "(b)", "a", "(B) "))}
        )
    pairs = answers_to(
        random, docs, lambda doc: {"A": "open", "B": "closed"}, module.mmvp_doc_to_target
    )
    pairs = [
        (doc, module.mmvp_doc_to_target(doc) if random.random() < 0.5 else answer)
        for doc, answer in pairs[: len(docs)]
    ]
    results = []
    for number, (doc, answer) in enumerate(pairs, start=1):
        text = without_reasoning(harness, answer)
        results.append(module.mmvp_process_results(doc, [text])["mmvp_pair_accuracy"])
        score = float(results[-1]["is_correct"])
        yield {"row": doc, "answer": answer, "score": score, "number": number}
    groups = [[2 * n, 2 * n + 1] for n in range(len(docs) // 2)] + [[0], [3], [8]]
    for own in sets(
        random,
        groups,
        lambda own: module.mmvp_aggregate_pair_results([results[n] for n in set(own)]),
    ):
        yield own | {"set": sorted(set(own["set"]))}
    for number, doc in enumerate(docs[:120], start=1):
        yield {"row": doc, "number": number, "prompt": module.mmvp_doc_to_text(doc, SHORT_PROMPT)}


def mmstar(harness: Checkout, random: Random) -> Iterator[Record]:
    """MMStar: mean over the categories' means."""
    module = task(harness, "mmstar.utils")
    docs = []
    for n in range(120):
        choices = filled(choice_row(random, n))
        lines = ", ".join(f"{letter}: {text}" for letter, text in choices.items())
        end = random.choice(("", " Please answer yes or no.", " "))
        kinds = {"category": "math", "l2_category": random.choice(("geometry", "numbers", "both"))}
        answer = random.choice(list(choices))
        docs.append(
            {"index": n, "question": f" Which?\nOptions: {lines}{end}", "answer": answer, **kinds}
        )
    pairs = answers_to(
        random, docs, lambda doc: dict.fromkeys("ABCD", "red"), lambda doc: doc["answer"]
    )
    yield from simple(
        harness,
        random,
        pairs,
        lambda doc, results: module.mmstar_process_results(doc, results)["average"],
        module.mmstar_aggregate_results,
    )
    post = {"pre_prompt": "", "post_prompt": f"\n{LETTER_PROMPT.removesuffix('.')}"}
    for doc in docs:
        yield {"row": doc, "prompt": module.mmstar_doc_to_text(doc, post)}


def mmmu_pro(harness: Checkout, random: Random) -> Iterator[Record]:
    """MMMU-Pro (vision): only the letter."""
    module = task(harness, "mmmu_pro.utils")
    docs = []
    for n in range(120):
        choices = list(filled(choice_row(random, n, "ABCDEFGHIJ")).values())
        names = {"id": f"test_Art_{n}", "subject": random.choice(("Art", "Music"))}
        docs.append(
            {
                **names,
                "options": str(choices),
                "answer": "ABCDEFGHIJ"[random.randrange(len(choices))],
            }
        )
    pairs = answers_to(
        random, docs, lambda doc: dict.fromkeys("ABCDEFGHIJ", "red"), lambda doc: doc["answer"]
    )
    yield from simple(
        harness,
        random,
        pairs,
        lambda doc, results: module.mmmu_pro_process_results(doc, results)["mmmu_acc"],
        module.mmmu_pro_aggregate_results,
    )
    prompt = {"post_prompt": "Answer with the option letter from the given choices directly."}
    for doc in docs:
        yield {"row": doc, "prompt": module.mmmu_pro_doc_to_text(doc, prompt)}


CASES: tuple[Case, ...] = (
    lmms_case("vstar:test", vstar, "vstar_bench.utils", "vstar_process_results"),
    lmms_case(
        "mme-realworld:test", mme_realworld, "mme_realworld.utils", "mme_realworld_process_results"
    ),
    lmms_case("ai2d:test", ai2d, "ai2d.utils", "MultiChoiceRegexFilter.apply"),
    lmms_case("realworldqa:test", realworldqa, "realworldqa.utils", "realworldqa_process_results"),
    lmms_case(
        "mmvp:test", mmvp, "mmvp.utils", "mmvp_process_results", "mmvp_aggregate_pair_results"
    ),
    lmms_case(
        "mmstar:val", mmstar, "mmstar.utils", "mmstar_process_results", "mmstar_aggregate_results"
    ),
    lmms_case(
        *("mmmu-pro:vision", mmmu_pro, "mmmu_pro.utils"),
        *("mmmu_pro_process_results", "mmmu_pro_aggregate_results"),
        rounding=1e-3,
    ),
)
