"""Provenance of a score: date, versions, commit, model, data, settings, token usage."""

import datetime
import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mgm
from mgm.data.sources.digest import digest_of
from mgm.errors import MGMError
from mgm.eval.download.hub import fetched_revision
from mgm.eval.harness.question import Question, Response
from mgm.eval.report.score import image_fingerprint, load_score
from mgm.eval.tasks.benchmark import Benchmark
from mgm.eval.tasks.dataset_source import HUB_FOLDER, HubFiles

PACKAGES = ("torch", "transformers")


def run_info(
    model: dict[str, Any], settings: dict[str, Any], data: dict[str, Any],
    responses: Sequence[Response],
) -> dict[str, Any]:  # fmt: skip
    """The field `run` of a result in results.json.

    Args:
        model: name, path, digest, dtype and so on; None: unknown.
        settings: options that affect the score.
        data: see `data_info`.
        responses: responses that were scored.
    """
    now = datetime.datetime.now(datetime.UTC)
    return {
        "date": now.isoformat(timespec="seconds"),
        "versions": versions(),
        "commit": commit(),
        "model": model,
        "data": data,
        "settings": settings,
        "usage": total_usage(responses),
    }


def merge_model_info(model: dict[str, Any], path: Path) -> dict[str, Any]:
    """Fill unknown fields, such as the device, from an earlier score of the same weights.

    Args:
        model: fields of this run; None: unknown.
        path: path of the earlier score, which may be missing.
    """
    try:
        earlier_info = load_score(path).run.get("model", {}) if path.is_file() else {}
    except MGMError:
        return model
    if any(earlier_info.get(name) != model.get(name) for name in ("name", "digest")):
        return model
    return earlier_info | {name: value for name, value in model.items() if value is not None}


def versions() -> dict[str, str]:
    """Versions of mgm, Python, torch and transformers."""
    result = {"mgm": mgm.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            continue
    return result


def commit() -> str | None:
    """The git commit of the sources, with "-dirty" for local changes; None: not a repository."""
    root = Path(mgm.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        process = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip() or None


def data_info(
    benchmark: Benchmark,
    split: str,
    protocol: str,
    folder: Path,
    questions: Sequence[Question],
) -> dict[str, Any]:
    """The files that questions were loaded from, and digests of files and questions.

    Args:
        benchmark: benchmark of the questions.
        split: split of the benchmark.
        protocol: protocol of the questions.
        folder: folder of the benchmark.
        questions: all questions of the split.
    """
    source = benchmark.sources.get((split, protocol))
    revision = None
    if isinstance(source, HubFiles):
        revision = fetched_revision(folder / HUB_FOLDER, source.dataset) or source.revision
    return {
        "files": [
            {"path": path.relative_to(folder).as_posix(), "digest": digest_of([path])}
            for path in files_read(benchmark, split, protocol, folder)
        ],
        "revision": revision,
        "digest": questions_digest(questions),
        "questions": len(questions),
    }


def files_read(benchmark: Benchmark, split: str, protocol: str, folder: Path) -> list[Path]:
    """The files that questions were loaded from, without folders of images."""
    source = benchmark.sources.get((split, protocol))
    if source is not None and source.is_there(folder):
        return source.files(folder)
    paths = [folder / one.path for one in benchmark.published_files(split)]
    return [path for path in paths if path.is_file()]


def questions_digest(questions: Iterable[Question]) -> str:
    """SHA-256 over prompts and targets of questions, in order.

    Of image files only the sizes are included, since there may be many.
    """
    digest = hashlib.sha256()
    for one in questions:
        images = [image_fingerprint(image) for image in one.images]
        fields = [one.id, one.text, one.target, one.category, one.group, images]
        digest.update(json.dumps(fields, ensure_ascii=False, default=str).encode(errors="replace"))
    return digest.hexdigest()


def total_usage(responses: Sequence[Response]) -> dict[str, float | int | None]:
    """Total generation time and tokens of responses, cached ones included; None: unknown.

    The time of a response starts at the previous one of its process: the sum excludes loading,
    scoring, and interrupted requests. A response that several questions share counts for each.
    """

    def total(name: str) -> float | int | None:
        values = [value for one in responses if (value := getattr(one, name)) is not None]
        return sum(values) if values else None

    seconds = total("seconds")
    return {
        "seconds_between_answers": None if seconds is None else round(seconds, 3),
        "prompt_tokens": total("prompt_tokens"),
        "completion_tokens": total("completion_tokens"),
    }
