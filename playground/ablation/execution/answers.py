"""Write answers.jsonl of a trained unit, one line per held-out question.

python -m playground.ablation.execution.answers FOLDER
"""

import json
import sys
from pathlib import Path
from typing import Any

from mgm.atomic import atomic_file
from mgm.errors import run_command
from mgm.eval.report.score import load_score
from playground.ablation.execution.run_unit import ANSWERS_FILE, EVALUATION


def answers(folder: Path) -> list[dict[str, Any]]:
    """Read the scored answers of a unit.

    Args:
        folder: folder of the unit, after its evaluation.

    Returns:
        For each question: id, image, kind, cap height of the text in pixels of 256 (None: no text),
        answer, whether it is right, and whether it is right under each control.
    """
    scored = folder / EVALUATION
    ablated = sorted((scored / "ablations").glob("*.json"))
    controls = {score.run["ablation"]: score.credits for score in map(load_score, ablated)}
    lines = (scored / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        {
            "id": sample["id"],
            "image": sample["group"],
            "kind": sample["category"],
            "height": sample["text_size"],
            "answer": sample["answer"],
            "right": sample["credit"] == 1,
            "controls": {name: credits[sample["id"]] == 1 for name, credits in controls.items()},
        }
        for sample in map(json.loads, lines)
    ]


def main() -> None:
    """Write the answers of the unit whose folder is the first argument."""
    folder = Path(sys.argv[1])
    with atomic_file(folder / ANSWERS_FILE) as part, part.open("w", encoding="utf-8") as file:
        for answer in answers(folder):
            file.write(json.dumps(answer, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    run_command(main)
