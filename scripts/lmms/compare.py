"""lmms-eval's answers and scorers beside ours, in an environment with lmms-eval.

    python scripts/lmms/compare.py

Runs lmms-eval on a local task with our model, compares every answer with our engine's, and its
scorers of TextVQA, MME and MMMU with ours on texts that are hard to score. Exits with 1 where they
differ.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import mgm
from mgm.eval.benchmarks import mme, mmmu
from mgm.eval.vqa_text import agreement, normal_answer

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
                *("--model_args", f"pretrained={NANO},device=cpu", "--tasks", "mgm_local"),
                *("--include_path", "scripts/lmms", "--log_samples", "--output_path", place),
            ],
            cwd=ROOT,
            check=True,
        )
        (samples,) = Path(place).rglob("*samples_mgm_local.jsonl")
        said = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    engine = mgm.load(NANO, device="cpu")
    wrong = 0
    documents = (ROOT / "scripts" / "lmms" / "questions.jsonl").read_text(encoding="utf-8")
    for one, document in zip(said, map(json.loads, documents.splitlines()), strict=True):
        files = [ROOT / "images" / name for name in document["images"]]
        request = mgm.Request(document["question"], images=files, max_new_tokens=32)
        ours = engine.answer([request])[0].text.strip()
        theirs = _text(one)
        print(f"{'same' if ours == theirs else 'DIFFERENT'}: {document['question']} -> {theirs!r}")
        wrong += ours != theirs
    return wrong


def _text(sample: dict[str, Any]) -> str:
    found = sample["filtered_resps"]
    while isinstance(found, list):
        found = found[0]
    return found["text"] if isinstance(found, dict) else str(found)


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
    return wrong


if __name__ == "__main__":
    sys.exit(main())
