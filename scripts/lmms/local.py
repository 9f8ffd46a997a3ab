"""What the task `mgm_local` of lmms-eval asks, and how it scores."""

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
