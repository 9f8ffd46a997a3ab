"""Texts in images, read by another program, as help for the model."""

import logging
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image

from mgm.errors import MGMError

MIN_SCORE = 0.1  # as published: what is less certain is left out
Reader = Callable[[Image.Image], list[str]]


def load_ocr() -> Reader:
    """A reader of texts: rapidocr, or PaddleOCR where that alone is installed.

    Raises:
        MGMError: neither is.
    """
    if find_spec("rapidocr") is not None and find_spec("onnxruntime") is not None:
        return _rapidocr()
    if find_spec("paddleocr") is not None:
        return _paddleocr()
    raise MGMError("--ocr: no reader of texts is installed; pip install -e '.[ocr]'")


def reference(texts: Sequence[str]) -> str:
    """What a question gets for help, as published; nothing where there is no text."""
    return f"\nReference OCR Token: {', '.join(texts)}\n" if texts else ""


def _rapidocr() -> Reader:
    from rapidocr import RapidOCR

    logging.getLogger("RapidOCR").setLevel(logging.WARNING)
    engine = RapidOCR(params={"Global.log_level": "warning"})

    def read(image: Image.Image) -> list[str]:
        found: Any = engine(np.asarray(image.convert("RGB"))[:, :, ::-1])
        if found.txts is None:
            return []
        pairs = zip(found.txts, found.scores, strict=True)
        return [text for text, score in pairs if score > MIN_SCORE]

    return read


def _paddleocr() -> Reader:
    from paddleocr import PaddleOCR  # ty: ignore[import-not-found]

    engine = PaddleOCR(lang="ch")

    def read(image: Image.Image) -> list[str]:
        texts = []
        for page in engine.predict(np.asarray(image.convert("RGB"))[:, :, ::-1]):
            pairs = zip(page["rec_texts"], page["rec_scores"], strict=True)
            texts += [text for text, score in pairs if score > MIN_SCORE]
        return texts

    return read
