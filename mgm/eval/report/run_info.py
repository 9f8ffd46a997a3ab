"""How a score came about: date, versions, model, data, settings, and what it cost."""

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
from mgm.eval.report.score import load_score
from mgm.eval.tasks.benchmark import Benchmark
from mgm.eval.tasks.dataset_source import HUB_FOLDER, HubFiles

PACKAGES = ("torch", "transformers")


def run_info(
    model: dict[str, Any], settings: dict[str, Any], data: dict[str, Any],
    responses: Sequence[Response],
) -> dict[str, Any]:  # fmt: skip
    """What results.json has as a result's `run`.

    Args:
        model: name, path, digest, dtype and so on, as far as they are known.
        settings: of the command line that decide the score.
        data: see `data_info`.
        responses: what was scored.
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


def merge_model_info(model: dict[str, Any], earlier: Path) -> dict[str, Any]:
    """A model with what an earlier score knew of the same weights, such as the device.

    Args:
        model: what this run knows; None: unknown.
        earlier: file of the score, which need not be there.
    """
    try:
        found = load_score(earlier).run.get("model", {}) if earlier.is_file() else {}
    except MGMError:
        return model
    if any(found.get(name) != model.get(name) for name in ("name", "digest")):
        return model
    return found | {name: value for name, value in model.items() if value is not None}


def versions() -> dict[str, str]:
    """Versions of this package and of what decides answers below it."""
    found = {"mgm": mgm.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The git commit of the package's sources, "-dirty" where files differ; None: no repository."""
    root = Path(mgm.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        found = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def data_info(
    benchmark: Benchmark,
    split: str,
    protocol: str,
    folder: Path,
    questions: Sequence[Question],
) -> dict[str, Any]:
    """Which files questions were read from, and a digest of them.

    Args:
        benchmark: that is asked.
        split: of it.
        protocol: by which is asked.
        folder: the benchmark's.
        questions: all there are.
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
    """The files that questions were read from; folders of images beside them are left out."""
    source = benchmark.sources.get((split, protocol))
    if source is not None and source.is_there(folder):
        return source.files(folder)
    paths = [folder / one.path for one in benchmark.published_files(split)]
    return [path for path in paths if path.is_file()]


def questions_digest(questions: Iterable[Question]) -> str:
    """SHA-256 of the texts and answers of questions, in their order.

    Of images that are files the sizes count, not the content: there may be many.
    """
    digest = hashlib.sha256()
    for one in questions:
        images = [_image_mark(image) for image in one.images]
        fields = [one.id, one.text, one.target, one.category, one.group, images]
        digest.update(json.dumps(fields, ensure_ascii=False, default=str).encode(errors="replace"))
    return digest.hexdigest()


def _image_mark(image: object) -> int | str:
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    try:
        return Path(str(image)).stat().st_size
    except OSError:
        return "missing"


def total_usage(responses: Sequence[Response]) -> dict[str, float | int | None]:
    """Seconds between answers and tokens of these answers, whichever run gave them; None: unknown.

    The seconds of an answer go from the one before it, in its own process, to it: their sum leaves
    out loading, scoring, and what a run that was killed asked without an answer. An answer that
    equal questions share is counted with each of them.
    """

    def total(name: str) -> float | int | None:
        known = [value for one in responses if (value := getattr(one, name)) is not None]
        return sum(known) if known else None

    seconds = total("seconds")
    return {
        "seconds_between_answers": None if seconds is None else round(seconds, 3),
        "prompt_tokens": total("prompt_tokens"),
        "completion_tokens": total("completion_tokens"),
    }
