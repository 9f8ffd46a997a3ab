"""What the tasks `mgm_local` and `mgm_rounds` of lmms-eval ask, and how they score."""

from pathlib import Path
from typing import Any

from PIL import Image

IMAGES = Path(__file__).parents[2] / "images"


def images(document: dict[str, Any]) -> list[Image.Image]:
    """Of a question."""
    return [Image.open(IMAGES / name).convert("RGB") for name in document["images"]]


def question(document: dict[str, Any], settings: dict[str, Any] | None = None) -> str:
    """What is asked."""
    return document["question"]


def scored(document: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """Whether the right words are in the answer."""
    text = getattr(results[0], "text", results[0])
    return {"right": float(document["answer"].lower() in text.lower())}


def in_rounds(
    document: dict[str, Any],
    lmms_eval_specific_kwargs: dict[str, Any] | None = None,
    previous_output: list[str] | None = None,
    round_idx: int | None = None,
    previous_round_info: int | None = None,
) -> Any:
    """The question; then, of every other document once more, what was answered.

    Returns:
        What is asked first; later images, what is asked, whether it has ended, the answers, and
        the input of the next round.
    """
    if round_idx is None:
        return document["question"]
    assert previous_output is not None
    assert len(previous_output) == round_idx
    assert (previous_round_info or 0) == round_idx - 1
    if round_idx > 1 + document["id"] % 2:
        return None, None, True, previous_output, None
    again = f"{document['question']} You said: {previous_output[-1]} Is that so?"
    return images(document), again, False, previous_output, round_idx


def scored_rounds(document: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """Whether the right words are in the first answer."""
    return {"right": float(document["answer"].lower() in results[0][0].lower())}
