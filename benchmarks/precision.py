"""Error of logits in lower precision (bfloat16, float16, int8, int4), relative to float32.

    python -m benchmarks.precision playground/mgm-nano ../shared/golden/work_dirs/MGM/MGM-*

For each checkpoint and precision, over all text positions of two questions about an image: the norm
of the difference over the norm of the float32 logits, and the share of positions with the same
argmax.
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
    """Load every checkpoint in every precision; print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="checkpoint folders")
    parser.add_argument("--image", type=Path, default=Path("images/sign.png"), help="image")
    arguments = parser.parse_args()
    names = list(PRECISIONS)
    if importlib.util.find_spec("bitsandbytes") is None:
        names = names[:3]
    print(f"{'model':14} {'precision':10} {'logits':>9} {'same top':>9}")
    for folder in arguments.folders:
        reference = logits(folder, arguments.image, {"dtype": "float32"})
        for name in names:
            other = logits(folder, arguments.image, PRECISIONS[name])
            error = ((other - reference).norm() / reference.norm()).item()
            same = (other.argmax(-1) == reference.argmax(-1)).float().mean().item()
            print(f"{folder.name:14} {name:10} {error:9.2e} {same:9.1%}", flush=True)


@torch.inference_mode()
def logits(folder: Path, image: Path, precision: dict[str, Any]) -> Tensor:
    """Logits (positions, vocabulary) of both questions, without image positions."""
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
