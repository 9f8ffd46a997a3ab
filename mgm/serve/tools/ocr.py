"""OCR of images with rapidocr or PaddleOCR; the texts are appended to the question."""

import logging
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image

from mgm.errors import MGMError

MIN_SCORE = 0.1  # confidence of a text, as published
OCREngine = Callable[[Image.Image], list[str]]


def load_ocr() -> OCREngine:
    """Loads rapidocr, or PaddleOCR where that alone is installed.

    Returns:
        A function from an image to the texts in it.

    Raises:
        MGMError: neither is installed.
    """
    if find_spec("rapidocr") is not None and find_spec("onnxruntime") is not None:
        return _rapidocr()
    if find_spec("paddleocr") is not None:
        return _paddleocr()
    raise MGMError("--ocr: neither rapidocr nor paddleocr is installed; pip install -e '.[ocr]'")


def ocr_prompt(texts: Sequence[str]) -> str:
    """Text appended to a question, in the published wording; empty: no text was recognised."""
    return f"\nReference OCR Token: {', '.join(texts)}\n" if texts else ""


def _rapidocr() -> OCREngine:
    from rapidocr import RapidOCR

    logging.getLogger("RapidOCR").setLevel(logging.WARNING)
    engine = RapidOCR(params={"Global.log_level": "warning"})

    def read(image: Image.Image) -> list[str]:
        output: Any = engine(np.asarray(image.convert("RGB"))[:, :, ::-1])
        if output.txts is None:
            return []
        pairs = zip(output.txts, output.scores, strict=True)
        return [text for text, score in pairs if score > MIN_SCORE]

    return read


def _paddleocr() -> OCREngine:
    from paddleocr import PaddleOCR  # ty: ignore[import-not-found]

    engine = PaddleOCR(lang="ch")

    def read(image: Image.Image) -> list[str]:
        texts = []
        for page in engine.predict(np.asarray(image.convert("RGB"))[:, :, ::-1]):
            pairs = zip(page["rec_texts"], page["rec_scores"], strict=True)
            texts += [text for text, score in pairs if score > MIN_SCORE]
        return texts

    return read
