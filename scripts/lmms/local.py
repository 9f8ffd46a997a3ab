"""Prompts and scorers of the lmms-eval tasks `mgm_local` and `mgm_rounds`."""

from pathlib import Path
from typing import Any

from PIL import Image

IMAGES = Path(__file__).parents[2] / "images"


def images(document: dict[str, Any]) -> list[Image.Image]:
    """Open the images of a question."""
    return [Image.open(IMAGES / name).convert("RGB") for name in document["images"]]


def question(document: dict[str, Any], settings: dict[str, Any] | None = None) -> str:
    """Return the prompt of a question."""
    return document["question"]


def scored(document: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """Score 1 if the response contains the answer, else 0."""
    text = getattr(results[0], "text", results[0])
    return {"right": float(document["answer"].lower() in text.lower())}


def in_rounds(
    document: dict[str, Any],
    lmms_eval_specific_kwargs: dict[str, Any] | None = None,
    previous_output: list[str] | None = None,
    round_idx: int | None = None,
    previous_round_info: int | None = None,
) -> Any:
    """Build the prompt of a round; later rounds question the response of the previous one.

    Documents with an odd id have three rounds, the others two.

    Returns:
        The prompt of the first round; for later ones a tuple of images, prompt, whether the
        conversation has ended, previous responses, and the round's information for the next one.
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
    """Score 1 if the response of the first round contains the answer, else 0."""
    return {"right": float(document["answer"].lower() in results[0][0].lower())}
