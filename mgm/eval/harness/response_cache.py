"""Response cache on disk: append-only JSONL files keyed by model, prompt, images and settings.

Every rank appends to a file of its own and reads the files of all ranks.
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
# Suffixes of checkpoint files that affect responses: weights, configs, vocabularies, templates.
MODEL_FILES = (".safetensors", ".bin", ".pt", ".pth", ".json", ".model", ".txt", ".jinja")


class ResponseCache:
    """Cache of responses.

    Args:
        folder: folder of the files.
        model: key of the model and its settings, see `model_key`.
        rank: rank of this process.
    """

    def __init__(self, folder: Path, model: str, rank: int = 0) -> None:
        self._folder, self._model = folder, model
        self._store = JSONLStore(folder / f"answers-{rank}.jsonl")
        self._records: dict[str, dict[str, Any]] = {}  # records of the files
        self._hashes: dict[Path, str] = {}
        self.reload()

    def variant(self, settings: str) -> "ResponseCache":
        """A cache of the same model with other settings, in the same files.

        Args:
            settings: part of all keys.
        """
        other = copy.copy(self)
        other._model = json.dumps([self._model, settings])
        return other

    def reload(self) -> None:
        """Read the files of all ranks again."""
        damaged = 0
        for file in sorted(self._folder.glob("answers-*.jsonl")):
            records, count = load_entries(file)
            self._records |= records
            damaged += count
        if damaged:
            logger.info(
                "%s: ignoring %d damaged lines of the response cache", self._folder, damaged
            )

    def key(self, question: Question) -> str:
        """The cache key: a hash of model, prompt, images and settings.

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
        if (
            question.images and question.orientation != STORED
        ):  # older caches have stored orientation only
            content["orientation"] = question.orientation
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode()).hexdigest()[:40]

    def get(self, key: str) -> str | None:
        """The text of a cached response; None: not cached."""
        record = self._records.get(key)
        return None if record is None else record["text"]

    def response(self, question: Question) -> Response | None:
        """The cached response to a question; None: not cached, or an image is missing."""
        try:
            record = self._records.get(self.key(question))
        except MGMError:
            return None
        if record is None:
            return None
        return Response(question, record["text"], **_read_details(record))

    def put(self, key: str, text: str, **details: float | str) -> None:
        """Append a response, with its `Response.details`.

        Raises:
            MGMError: it cannot be written; earlier responses are not affected.
        """
        self._store.append(key, text, **details)
        self._records[key] = {"text": valid_text(text), **details}

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


def _read_details(record: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record in `RESPONSE_DETAILS`; invalid values are dropped."""
    return {name: record[name] for name in RESPONSE_DETAILS
            if name in record and is_detail(name, record[name])}  # fmt: skip


def model_key(path: str, settings: dict[str, Any]) -> str:
    """The key of a model in the cache: its name and a hash of its files and settings.

    Copies of a model in folders of the same name have the same key.

    Args:
        path: path of the model's folder, or its name on a hub or server.
        settings: such as dtype and template; `model_base` may be another folder.

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
    """SHA-256 over names and content of a model's files.

    Raises:
        MGMError: a file cannot be read.
    """
    return hashlib.sha256(json.dumps(_files_digest(folder)).encode()).hexdigest()


def _files_digest(folder: Path) -> list[list[str]]:
    """Path and SHA-256 of each file of a model, in subfolders too."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in MODEL_FILES)
    return [
        [file.relative_to(folder).as_posix(), digest_of([file])] for file in files if file.is_file()
    ]
