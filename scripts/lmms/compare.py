"""Compare lmms-eval's answers with those of our engine, in an environment with lmms-eval.

    python scripts/lmms/compare.py

Runs lmms-eval with our model on local single-round and multi-round tasks, and compares every answer
with our engine's. Exits with status 1 if any differs. Scorers and prompts are compared by
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
    """Compare all answers; returns the exit status."""
    different = count_differences()
    print(f"{different} answers differ" if different else "all answers are the same")
    return int(different > 0)


def count_differences() -> int:
    """Count the answers of lmms-eval that differ from those of our engine."""
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
    different = 0
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
            different += theirs != ours
    return different


def _samples(folder: Path, task: str) -> list[list[str]]:
    """Read the responses of a task, by document."""
    (file,) = folder.rglob(f"*samples_{task}.jsonl")
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [_texts(one["filtered_resps"]) for one in lines]


def _texts(response: Any) -> list[str]:
    if isinstance(response, list):
        return [text for part in response for text in _texts(part)]
    return [response["text"] if isinstance(response, dict) else str(response)]


if __name__ == "__main__":
    sys.exit(main())
