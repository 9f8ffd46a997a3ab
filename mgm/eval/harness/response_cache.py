"""Answers that were given, so that nothing is asked twice: in files that only grow.

Every process writes a file of its own; all read all files.
"""

import copy
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from mgm.data.images.loading import ImageSource, open_image
from mgm.data.images.orientation import STORED
from mgm.data.sources.digest import digest_of
from mgm.errors import MGMError
from mgm.eval.harness.jsonl_store import JSONLStore, load_entries
from mgm.eval.harness.question import RESPONSE_DETAILS, Question, Response, is_detail, valid_text

logger = logging.getLogger("mgm.eval")
# Of a model: weights, settings, vocabularies and templates.
MODEL_FILES = (".safetensors", ".bin", ".pt", ".pth", ".json", ".model", ".txt", ".jinja")


class ResponseCache:
    """Answers by model, text, images and settings.

    Args:
        folder: of the files.
        model: what answers, with all that decides its answers: two models never share a name.
        rank: the number of this process.
    """

    def __init__(self, folder: Path, model: str, rank: int = 0) -> None:
        self._folder, self._model = folder, model
        self._own = JSONLStore(folder / f"answers-{rank}.jsonl")
        self._known: dict[str, dict[str, Any]] = {}  # records of the files
        self._hashes: dict[Path, str] = {}
        self.reload()

    def variant(self, settings: str) -> "ResponseCache":
        """Answers of the same model with other settings, in the same files.

        Args:
            settings: what differs; answers with others are not seen.
        """
        other = copy.copy(self)
        other._model = json.dumps([self._model, settings])
        return other

    def reload(self) -> None:
        """Read what other processes have written."""
        damaged = 0
        for file in sorted(self._folder.glob("answers-*.jsonl")):
            known, count = load_entries(file)
            self._known |= known
            damaged += count
        if damaged:
            logger.info(
                "%d answers in %s were not finished; they are asked anew", damaged, self._folder
            )

    def key(self, question: Question) -> str:
        """What decides the answer to a question, in few letters.

        Raises:
            MGMError: an image is missing.
        """
        content = {
            "model": self._model,
            "text": question.text,
            "system": question.system,
            "max_new_tokens": question.max_new_tokens,
            "images": [self._hash(image) for image in question.images],
        }
        if question.images and question.orientation != STORED:  # answers of before were all stored
            content["orientation"] = question.orientation
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode()).hexdigest()[:40]

    def get(self, key: str) -> str | None:
        """The answer of a key; None: it was not asked yet."""
        record = self._known.get(key)
        return None if record is None else record["text"]

    def response(self, question: Question) -> Response | None:
        """A question with its answer; None: it was not asked yet, or cannot be."""
        try:
            record = self._known.get(self.key(question))
        except MGMError:
            return None
        if record is None:
            return None
        return Response(question, record["text"], **_details(record))

    def put(self, key: str, text: str, **details: float | str) -> None:
        """Keep an answer, at once, with its `Response.details`.

        Raises:
            MGMError: it cannot be written; what was answered before is kept.
        """
        self._own.add(key, text, **details)
        self._known[key] = {"text": valid_text(text), **details}

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


def _details(record: dict[str, Any]) -> dict[str, Any]:
    """What a record tells of an answer besides its text; what cannot be is passed over."""
    return {name: record[name] for name in RESPONSE_DETAILS
            if name in record and is_detail(name, record[name])}  # fmt: skip


def model_key(path: str, settings: dict[str, Any]) -> str:
    """The name of a model with what decides its answers: the content of its files, and settings.

    A copy of a model in a folder of the same name has the same one, whenever it was made.

    Args:
        path: of its folder, or its name elsewhere.
        settings: such as dtype and template; `model_base` may name another folder.

    Raises:
        MGMError: a file cannot be read.
    """
    folder = Path(path)
    parts = [folder] + [Path(base) for base in [settings.get("model_base")] if base]
    digests = [_files_digest(part) if part.is_dir() else str(part) for part in parts]
    others = {name: value for name, value in settings.items() if name != "model_base"}
    name = folder.resolve().name if folder.is_dir() else path
    text = json.dumps([name, digests, others], sort_keys=True)
    return f"{name}-{hashlib.blake2b(text.encode()).hexdigest()[:12]}"


def model_digest(folder: Path) -> str:
    """SHA-256 of the files of a model, with their names.

    Raises:
        MGMError: a file cannot be read.
    """
    return hashlib.sha256(json.dumps(_files_digest(folder)).encode()).hexdigest()


def _files_digest(folder: Path) -> list[list[str]]:
    """Names and SHA-256 of the files of a model, those in folders below it, too."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in MODEL_FILES)
    return [
        [file.relative_to(folder).as_posix(), digest_of([file])] for file in files if file.is_file()
    ]
