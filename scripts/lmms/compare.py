"""lmms-eval's answers beside ours, in an environment with lmms-eval.

    python scripts/lmms/compare.py

Runs lmms-eval on local tasks of one round and of several with our model, and compares every answer
with our engine's. Exits with 1 where they differ. Its scorers and prompts are compared with ours by
tests/eval/differential.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import mgm

ROOT = Path(__file__).parents[2]
NANO = ROOT / "playground" / "mgm-nano"


def main() -> int:
    """Compare; returns the exit status."""
    wrong = answers()
    print("all the same" if not wrong else f"{wrong} differ")
    return int(wrong > 0)


def answers() -> int:
    """Questions whose answers under lmms-eval are not those of our engine."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                *(sys.executable, "-m", "lmms_eval", "--model", "mgm"),
                *("--model_args", f"pretrained={NANO},device=cpu"),
                *("--tasks", "mgm_local,mgm_rounds", "--include_path", "scripts/lmms"),
                *("--log_samples", "--output_path", folder),
            ],
            cwd=ROOT,
            check=True,
        )
        once, several = (_samples(Path(folder), task) for task in ("mgm_local", "mgm_rounds"))
    engine = mgm.load(NANO, device="cpu")
    wrong = 0
    documents = (ROOT / "scripts" / "lmms" / "questions.jsonl").read_text(encoding="utf-8")
    for number, document in enumerate(map(json.loads, documents.splitlines())):
        files = [ROOT / "images" / name for name in document["images"]]
        replies: list[str] = []
        for _ in range(2 + document["id"] % 2):
            text = document["question"]
            if replies:
                text += f" You said: {replies[-1]} Is that so?"
            request = mgm.Request(text, images=files, max_new_tokens=32)
            replies.append(engine.answer([request])[0].text.strip())
        for theirs, ours in ((once[number], replies[:1]), (several[number], replies)):
            same = "same" if theirs == ours else "DIFFERENT"
            print(f"{same}: {document['question']} -> {theirs!r}")
            wrong += theirs != ours
    return wrong


def _samples(folder: Path, task: str) -> list[list[str]]:
    """What was answered to each document of a task."""
    (file,) = folder.rglob(f"*samples_{task}.jsonl")
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [_texts(one["filtered_resps"]) for one in lines]


def _texts(response: Any) -> list[str]:
    if isinstance(response, list):
        return [text for part in response for text in _texts(part)]
    return [response["text"] if isinstance(response, dict) else str(response)]


if __name__ == "__main__":
    sys.exit(main())
