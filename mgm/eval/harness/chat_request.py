"""Chat completion requests of the OpenAI API, with images as data URLs."""

import base64
import io
from pathlib import Path
from typing import Any

from mgm.data.images.decoding import has_exif_transposition
from mgm.data.images.loading import ImageSource, image_file, open_image
from mgm.eval.harness.question import Question


def chat_completion_body(question: Question, model: str) -> dict[str, Any]:
    """The body of a greedy chat completion request.

    Args:
        question: its images precede its text.
        model: name of the model on the server.

    Raises:
        MGMError: an image cannot be read.
    """
    parts = [
        {"type": "image_url", "image_url": {"url": _data_url(image, question)}}
        for image in question.images
    ]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [*parts, {"type": "text", "text": question.text}]}
    ]
    if question.system is not None:
        messages.insert(0, {"role": "system", "content": question.system})
    return {
        "model": model,
        "messages": messages,
        "temperature": 0,
        "max_tokens": question.max_new_tokens,
    }


def _data_url(image: ImageSource, question: Question) -> str:
    """An image as data URL: the file unchanged, unless the server might apply EXIF orientation."""
    label = f"question {question.id}"
    if isinstance(image, bytes | str | Path):
        content, name = image_file(image, label)
        if not has_exif_transposition(content, name):
            return _url_of(content)
    file = io.BytesIO()
    open_image(image, label, question.orientation).save(file, "PNG")
    return _url_of(file.getvalue())


def _url_of(content: bytes) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"
