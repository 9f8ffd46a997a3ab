"""Data sets of the Hugging Face hub, at a revision that is written down."""

import json
import logging
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mgm.atomic import atomic_file
from mgm.errors import hub_errors, one_line

logger = logging.getLogger("mgm.eval")
REVISIONS = "revisions.json"  # in the folder of the files: what was fetched of which data set


def provide_from_hub(
    dataset: str, pattern: str, folder: Path, offline: bool, revision: str | None = None
) -> bool:
    """Have files of a data set in a folder; returns whether all are there.

    The hub's own library goes on where it broke off, and checks sizes. The commit is written down
    before, so that a later run fetches the rest of the same one.

    Args:
        dataset: its name.
        pattern: of the files.
        folder: where they go.
        offline: whether nothing is fetched.
        revision: of the data set; None: that of an earlier run, or else the newest.

    Raises:
        MGMError: the folder cannot be written.
    """
    known = _read(folder)
    entry = known.get(dataset, {})
    if not offline:
        try:
            entry = _fetch(dataset, pattern, folder, revision or entry.get("revision"), known)
        except hub_errors() as error:
            logger.info("%s: cannot be fetched (%s)", dataset, one_line(error)[:200])
    found = sorted(folder.glob(pattern))
    for path in found:
        logger.info("there: %s", path)
    names = entry.get("files", {}).get(pattern, [])
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not found:
        some = f" ({len(missing)} are missing, such as {missing[0]})" if missing else ""
        logger.info(
            "missing: put the files %s of the data set %s of the Hugging Face hub into %s%s",
            *(pattern, dataset, folder, some),
        )
    return bool(found) and not missing


def _fetch(
    dataset: str, pattern: str, folder: Path, revision: str | None, known: dict[str, Any]
) -> dict[str, Any]:
    """Fetch the files; returns what is written down."""
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi().dataset_info(dataset, revision=revision)
    names = [one.rfilename for one in info.siblings or () if fnmatch(one.rfilename, pattern)]
    before = known.get(dataset, {})
    files = before.get("files", {}) if before.get("revision") == info.sha else {}
    entry = {"revision": info.sha, "files": files | {pattern: sorted(names)}}
    with atomic_file(folder / REVISIONS) as part:
        part.write_text(json.dumps(known | {dataset: entry}, indent=2), encoding="utf-8")
    snapshot_download(
        dataset,
        repo_type="dataset",
        revision=info.sha,
        allow_patterns=pattern,
        local_dir=folder,
    )
    logger.info("%s: revision %s", dataset, info.sha)
    return entry


def fetched_revision(folder: Path, dataset: str) -> str | None:
    """The commit of a data set that its files in a folder are of; None: nobody wrote it down."""
    return _read(folder).get(dataset, {}).get("revision")


def _read(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / REVISIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {name: entry for name, entry in entries if _is_entry(entry)}


def _is_entry(entry: Any) -> bool:
    """Whether this is what `_fetch` records of a data set: its revision, and files by pattern."""
    files = entry.get("files", {}) if isinstance(entry, dict) else None
    return isinstance(files, dict) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names)
        for names in files.values()
    )
