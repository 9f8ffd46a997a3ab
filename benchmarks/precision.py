"""How far logits move when a model is loaded in fewer bits than float32.

    python -m benchmarks.precision playground/mgm-nano ../shared/golden/work_dirs/MGM/MGM-*

For each folder and precision, at all positions of questions about a picture: the norm of the
difference over the norm of the float32 logits, and how often the likeliest next token is the same.
"""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mgm

PRECISIONS: dict[str, dict[str, Any]] = {
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "int8": {"dtype": "float32", "quantize": "int8"},
    "llm-int8": {"dtype": "float32", "quantize": "llm-int8"},
    "int4": {"dtype": "float32", "quantize": "int4"},
}
QUESTIONS = ("What does the top line say?", "How many red shapes are there?")


def main() -> None:
    """Load every folder in every precision and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="checkpoints")
    parser.add_argument("--image", type=Path, default=Path("images/sign.png"))
    arguments = parser.parse_args()
    names = list(PRECISIONS)
    if importlib.util.find_spec("bitsandbytes") is None:
        names = names[:3]
    print(f"{'model':14} {'precision':10} {'logits':>9} {'same top':>9}")
    for folder in arguments.folders:
        full = logits(folder, arguments.image, {"dtype": "float32"})
        for name in names:
            other = logits(folder, arguments.image, PRECISIONS[name])
            error = ((other - full).norm() / full.norm()).item()
            same = (other.argmax(-1) == full.argmax(-1)).float().mean().item()
            print(f"{folder.name:14} {name:10} {error:9.2e} {same:9.1%}", flush=True)


@torch.inference_mode()
def logits(folder: Path, image: Path, precision: dict[str, Any]) -> Tensor:
    """(positions, vocabulary) of both questions, image positions left out."""
    engine = mgm.load(folder, device="cpu", **precision)
    rows = []
    for question in QUESTIONS:
        prompt = engine.processor.prompt(question, images=1)
        inputs = engine.processor(text=prompt, images=[image])
        logits = engine.model(**inputs).logits[0]
        rows.append(logits[inputs["input_ids"][0] != engine.model.config.image_token_id].float())
    return torch.cat(rows)


if __name__ == "__main__":
    main()
