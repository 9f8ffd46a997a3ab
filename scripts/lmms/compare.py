"""lmms-eval's answers and scorers beside ours, in an environment with lmms-eval.

    python scripts/lmms/compare.py

Runs lmms-eval on a local task with our model, compares every answer with our engine's, and its
scorers with ours on texts that are hard to score. Exits with 1 where they differ.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import mgm
from mgm.eval.benchmarks import mme, mmmu
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question
from mgm.eval.metrics.multiple_choice import lmms_eval_letter
from mgm.eval.metrics.vqa_accuracy import agreement, normal_answer
from mgm.eval.registry import BENCHMARKS
from mgm.eval.tasks.prompts import LETTER, SINGLE_WORD, UNANSWERABLE

ROOT = Path(__file__).parents[2]
NANO = ROOT / "playground" / "mgm-nano"
GOLDEN = ROOT / "tests" / "golden" / "eval"


def main() -> int:
    """Compare; returns the exit status."""
    wrong = answers() + scorers()
    print("all the same" if not wrong else f"{wrong} differ")
    return int(wrong > 0)


def answers() -> int:
    """Questions whose answers under lmms-eval are not those of our engine."""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(
            [
                *(sys.executable, "-m", "lmms_eval", "--model", "mgm"),
                *("--model_args", f"pretrained={NANO},device=cpu"),
                *("--tasks", "mgm_local,mgm_rounds", "--include_path", "scripts/lmms"),
                *("--log_samples", "--output_path", place),
            ],
            cwd=ROOT,
            check=True,
        )
        once, several = (_samples(Path(place), task) for task in ("mgm_local", "mgm_rounds"))
    engine = mgm.load(NANO, device="cpu")
    wrong = 0
    documents = (ROOT / "scripts" / "lmms" / "questions.jsonl").read_text(encoding="utf-8")
    for number, document in enumerate(map(json.loads, documents.splitlines())):
        files = [ROOT / "images" / name for name in document["images"]]
        said: list[str] = []
        for _ in range(2 + document["id"] % 2):
            text = document["question"]
            if said:
                text += f" You said: {said[-1]} Is that so?"
            request = mgm.Request(text, images=files, max_new_tokens=32)
            said.append(engine.answer([request])[0].text.strip())
        for theirs, ours in ((once[number], said[:1]), (several[number], said)):
            same = "same" if theirs == ours else "DIFFERENT"
            print(f"{same}: {document['question']} -> {theirs!r}")
            wrong += theirs != ours
    return wrong


def _samples(place: Path, task: str) -> list[list[str]]:
    """What was answered to each document of a task."""
    (file,) = place.rglob(f"*samples_{task}.jsonl")
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [_texts(one["filtered_resps"]) for one in lines]


def _texts(found: Any) -> list[str]:
    if isinstance(found, list):
        return [text for part in found for text in _texts(part)]
    return [found["text"] if isinstance(found, dict) else str(found)]


def scorers() -> int:
    """Records on which a scorer of lmms-eval and ours differ."""
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor
    from lmms_eval.tasks.mme.utils import parse_pred_ans
    from lmms_eval.tasks.mmmu.utils import parse_open_response

    wrong = 0
    theirs = EvalAIAnswerProcessor()
    records = json.loads((GOLDEN / "textvqa.json").read_text(encoding="utf-8"))
    for record in records["processor"]:
        wrong += theirs(record["input"]) != normal_answer(record["input"])
    for record in records["scores"]:
        said = theirs(record["pred_answer"])
        right = [theirs(answer) for answer in record["gt_answers"]]
        matches = [
            min(1.0, sum(other == said for place, other in enumerate(right) if place != left) / 3)
            for left in range(len(right))
        ]
        ours = agreement(record["pred_answer"], record["gt_answers"])
        wrong += abs(sum(matches) / len(matches) - ours) > 1e-9
    for text in ("Yes", "no.", "y", "N", "Yes, it is", "not", "None", "", "It is yes", "  YES"):
        wrong += parse_pred_ans(text) != mme.parse(text)
    records = json.loads((GOLDEN / "mmmu.json").read_text(encoding="utf-8"))
    for record in records["parse_open_response"]:
        own = sorted(map(str, mmmu.parse_open(record["response"])))
        wrong += own != sorted(map(str, parse_open_response(record["response"])))
    return wrong + choices() + short_answers() + prompts()


TEXTS = (
    *("A", "a", "B.", "(B)", "B)", "The answer is B", "A dog", "It is A dog there", "A or B", ""),
    *(
        "C: a cat",
        "red",
        "The RED one",
        "red or blue",
        "E",
        "(E).",
        "B,",
        ":B",
        "D).",
        "None",
        "A. ",
    ),
    *("Yes", "yes", "no", "No.", " no ", "nope", "yes, it is", "A. red", "B. blue", "b", "AB"),
    *("2", "two", "a red car", "unanswerable", "Unanswerable.", "the car", "2 cars", "car's"),
)


def choices() -> int:
    """Answers whose letter lmms-eval's MMBench sees otherwise, or another of its scorers."""
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator
    from lmms_eval.tasks.pope.utils import pope_process_results
    from lmms_eval.tasks.scienceqa.utils import sqa_process_results
    from lmms_eval.tasks.seedbench.utils import seed_process_result

    wrong, evaluator = 0, MMBench_Evaluator()
    for text in TEXTS:
        for own in (["red", "blue"], ["red", "blue", "a cat", "dog"], ["1", "2", "12"]):
            named = dict(zip("ABCD", own, strict=False))
            theirs = evaluator.can_infer(text, named) or None
            wrong += _told("mmbench", text, theirs, lmms_eval_letter(text, own))
        for answer, index in (("A", 0), ("B", 1)):
            document = {"choices": ["red", "blue"], "answer": index}
            theirs = sqa_process_results(document, [text])["exact_match"]
            wrong += _told("scienceqa", text, theirs, _credit("scienceqa", text, answer))
            document = {"answer": answer, "data_type": "image", "question_id": 1}
            found = seed_process_result(document, [text])["seed_all"]
            ours = _credit("seed", text, answer)
            wrong += _told("seed", text, float(found["pred"] == answer), ours)
        for answer in ("yes", "no"):
            theirs = pope_process_results({"answer": answer, "question_id": 1}, [text])
            ours = _credit("pope", text, answer)
            wrong += _told("pope", text, theirs["pope_accuracy"]["score"], ours)
    return wrong


def prompts() -> int:
    """Records of the hub's data sets that lmms-eval asks with other words."""
    os.environ.setdefault("OPENAI_API_KEY", "nobody is asked")  # MathVista's imports want one
    from lmms_eval.tasks.docvqa.utils import docvqa_doc_to_text
    from lmms_eval.tasks.gqa.utils import gqa_doc_to_text
    from lmms_eval.tasks.mathvista.utils import mathvista_doc_to_text
    from lmms_eval.tasks.mmbench.en_utils import mmbench_doc_to_text
    from lmms_eval.tasks.mme.utils import mme_doc_to_text
    from lmms_eval.tasks.pope.utils import pope_doc_to_text
    from lmms_eval.tasks.scienceqa.utils import sqa_doc_to_text
    from lmms_eval.tasks.seedbench.utils import seed_doc_to_text
    from lmms_eval.tasks.textvqa.utils import textvqa_doc_to_text
    from lmms_eval.tasks.vizwiz_vqa.utils import vizwiz_vqa_doc_to_text
    from lmms_eval.tasks.vqav2.utils import vqav2_doc_to_text

    # What stands in the tasks' own files.
    short = {"pre_prompt": "", "post_prompt": f"\n{SINGLE_WORD}"}
    letter = {"pre_prompt": "", "post_prompt": f"\n{LETTER}", "format": "default"}
    blind = {"pre_prompt": "", "post_prompt": f"\n{UNANSWERABLE}\n{SINGLE_WORD}"}
    record = {
        "question": "Which COLOUR is it?", "question_id": "1", "id": "1", "imageId": "1",
        "image_id": "1", "index": 1, "hint": "Look.", "choices": ["red", "blue"], "A": "red",
        "B": "blue", "C": "nan", "D": "nan", "choice_a": "a", "choice_b": "b", "choice_c": "c",
        "choice_d": "d", "data_type": "image", "category": "OCR", "L2-category": "x", "source": "x",
        "split": "dev", "types": None,
    }  # fmt: skip
    yes = {"question": "Is it RED? Please answer yes or no.", "answer": "Yes"}
    people = {"answers": [{"answer": "red"}]}
    task = {"shot_type": "format-prompt", "shot": 0, "use_caption": False, "use_ocr": False}
    problem = {
        "pid": "1", "unit": "$", "precision": 1, "answer": "1.5", "choices": None,
        "question_type": "free_form", "metadata": {"task": "x"},
    }  # fmt: skip
    kinds: tuple[tuple[str, Any, dict[str, Any] | None, dict[str, Any]], ...] = (
        ("pope", pope_doc_to_text, short, {"answer": "yes"}),
        ("scienceqa", sqa_doc_to_text, letter, {"answer": 0}),
        ("scienceqa", sqa_doc_to_text, letter, {"answer": 0, "hint": ""}),
        ("seed", seed_doc_to_text, None, {"answer": "A"}),
        ("mmbench", mmbench_doc_to_text, letter, {"answer": "A"}),
        ("mmbench", mmbench_doc_to_text, letter, {"answer": "A", "hint": "nan"}),
        ("textvqa", textvqa_doc_to_text, short, {"answers": ["red"]}),
        ("mme", mme_doc_to_text, short, yes),
        ("gqa", gqa_doc_to_text, short, {"answer": "red"}),
        ("vqav2", vqav2_doc_to_text, short, people),
        ("vizwiz", vizwiz_vqa_doc_to_text, blind, {"answers": ["red"]}),
        *(
            ("mathvista", mathvista_doc_to_text, task, problem | {"answer_type": kind})
            for kind in ("integer", "float", "list")
        ),
        (
            "mathvista",
            mathvista_doc_to_text,
            task,
            problem
            | {
                "question_type": "multi_choice",
                "answer_type": "text",
                "choices": ["red", "blue"],
                "unit": "",
            },
        ),
        ("docvqa", docvqa_doc_to_text, short, {"questionId": "1", "answers": ["red"]}),
    )
    wrong = 0
    for name, function, settings, more in kinds:
        document = record | more
        theirs = function(document) if settings is None else function(document, settings)
        ours = BENCHMARKS[name].from_row(document, (Path("x"),), "lmms-eval", 1).text
        wrong += _told(name, document["question"], theirs, ours)
    return wrong


def short_answers() -> int:
    """Answers that lmms-eval's VQAv2, VizWiz and DocVQA give another credit."""
    from lmms_eval.api.metrics import anls
    from lmms_eval.tasks.vizwiz_vqa.utils import vizwiz_vqa_process_results
    from lmms_eval.tasks.vqav2.utils import vqav2_process_results_val

    wrong = 0
    people = (["two"] * 10, ["2"] * 4 + ["two"] * 6, ["a red car", "red car", "car"] * 3 + ["Car"])
    for text in TEXTS:
        for own in people:
            theirs = vizwiz_vqa_process_results({"question_id": "1", "answers": list(own)}, [text])
            ours = _credit("vizwiz", text, list(own))
            wrong += _told("vizwiz", text, theirs["exact_match"], ours)
            answers = [{"answer": one, "answer_id": n} for n, one in enumerate(own)]
            document = {"question_id": 1, "answers": answers}
            theirs = vqav2_process_results_val(document, [text])
            wrong += _told("vqav2", text, theirs["exact_match"], _credit("vqav2", text, list(own)))
            theirs = anls(own, [text])
            wrong += _told("docvqa", text, theirs["anls"], _credit("docvqa", text, list(own)))
    return wrong


def _credit(name: str, text: str, answer: Any) -> float:
    question = Question(id="1", text="", answer=answer, facts={"choices": ["red", "blue"]})
    return BENCHMARKS[name].credit(Answered(question, text), "lmms-eval", Judge())


def _told(name: str, text: str, theirs: Any, ours: Any) -> int:
    """1 where both differ, which is printed."""
    same = theirs == ours or (isinstance(theirs, float) and abs(theirs - ours) < 1e-9)
    if not same:
        print(f"{name}: {text!r} is {theirs!r} there and {ours!r} here")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
