"""Answers that were given, so that nothing is asked twice: in files that only grow.

Every process writes a file of its own; all read all files.
"""

import copy
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgm.data.images.loading import ImageSource, open_image
from mgm.data.images.orientation import STORED
from mgm.errors import MGMError
from mgm.eval.harness.jsonl_store import TextFile, read_texts
from mgm.eval.harness.question import Question

logger = logging.getLogger("mgm.eval")


class AnswerCache:
    """Answers by model, text, images and settings.

    Args:
        folder: of the files.
        model: what answers, with all that decides its answers: two models never share a name.
        process: the number of this process.
    """

    def __init__(self, folder: Path, model: str, process: int = 0) -> None:
        self._folder, self._model = folder, model
        self._own = TextFile(folder / f"answers-{process}.jsonl")
        self._known: dict[str, str] = {}
        self._hashes: dict[Path, str] = {}
        self.reload()

    def variant(self, settings: str) -> "AnswerCache":
        """Answers of the same model with other settings, in the same files.

        Args:
            settings: what differs; answers with others are not seen.
        """
        other = copy.copy(self)
        other._model = json.dumps([self._model, settings])
        return other

    def reload(self) -> None:
        """Read what other processes have written."""
        torn = 0
        for file in sorted(self._folder.glob("answers-*.jsonl")):
            known, unfinished = read_texts(file)
            self._known |= known
            torn += unfinished
        if torn:
            logger.info(
                "%d answers in %s were not finished; they are asked anew", torn, self._folder
            )

    def key(self, question: Question) -> str:
        """What decides the answer to a question, in few letters.

        Raises:
            MGMError: an image is missing.
        """
        facts = {
            "model": self._model,
            "text": question.text,
            "system": question.system,
            "max_new_tokens": question.max_new_tokens,
            "images": [self._hash(image) for image in question.images],
        }
        if question.images and question.orientation != STORED:  # answers of before were all stored
            facts["orientation"] = question.orientation
        return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:40]

    def get(self, key: str) -> str | None:
        """The answer of a key; None: it was not asked yet."""
        return self._known.get(key)

    def put(self, key: str, text: str) -> None:
        """Keep an answer, at once.

        Raises:
            MGMError: it cannot be written.
        """
        self._known[key] = text
        try:
            self._own.add(key, text)
        except OSError as error:
            raise MGMError(
                f"{self._own.path}: cannot be written ({error.strerror}); make room, and run "
                "again: what was answered is kept"
            ) from error

    def _hash(self, image: ImageSource) -> str:
        if isinstance(image, bytes):
            return hashlib.blake2b(image).hexdigest()[:32]
        if isinstance(image, str | Path):
            path = Path(image)
            if path not in self._hashes:
                try:
                    content = path.read_bytes()
                except OSError as error:
                    raise MGMError(
                        f"{path}: the image cannot be read ({error.strerror})"
                    ) from error
                self._hashes[path] = hashlib.blake2b(content).hexdigest()[:32]
            return self._hashes[path]
        return hashlib.blake2b(open_image(image, "an image", STORED).tobytes()).hexdigest()[:32]


def settings_name(path: str, facts: dict[str, Any]) -> str:
    """The name of a model with what decides its answers: its weights' files and the settings.

    Args:
        path: of its folder, or its name elsewhere.
        facts: such as dtype and template.
    """
    folder = Path(path)
    files: Sequence[Path] = sorted(folder.iterdir()) if folder.is_dir() else []
    marks = [
        [file.name, file.stat().st_size, file.stat().st_mtime_ns]
        for file in files
        if file.suffix in (".safetensors", ".bin", ".json", ".model")
    ]
    name = folder.resolve().name if files else path
    text = json.dumps([name, marks, facts], sort_keys=True)
    return f"{name}-{hashlib.blake2b(text.encode()).hexdigest()[:12]}"
