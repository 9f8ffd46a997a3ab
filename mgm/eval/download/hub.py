"""Downloads from data sets of the Hugging Face hub, pinned to a saved revision."""

import json
import logging
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mgm.atomic import atomic_file
from mgm.errors import hub_errors, one_line

logger = logging.getLogger("mgm.eval")
REVISIONS_FILE = "revisions.json"  # revision and files of each data set, saved beside the files


def download_from_hub(
    dataset: str, pattern: str, folder: Path, offline: bool, revision: str | None = None
) -> bool:
    """Download files of a data set; interrupted downloads resume at the same commit.

    Args:
        dataset: its name on the hub.
        pattern: glob pattern of the files.
        folder: folder to download to.
        offline: download nothing.
        revision: revision of the data set; None: that of an earlier run, or else the newest.

    Returns:
        Whether all files exist now.

    Raises:
        MGMError: the folder cannot be written.
    """
    revisions = _read_revisions(folder)
    entry = revisions.get(dataset, {})
    if not offline:
        try:
            entry = _download(
                dataset, pattern, folder, revision or entry.get("revision"), revisions
            )
        except hub_errors() as error:
            logger.info("%s: download failed (%s)", dataset, one_line(error)[:200])
    files = sorted(folder.glob(pattern))
    for path in files:
        logger.info("exists: %s", path)
    names = entry.get("files", {}).get(pattern, [])
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not files:
        some = f" ({len(missing)} are missing, for example {missing[0]})" if missing else ""
        logger.info(
            "missing: put the files %s of the data set %s of the Hugging Face hub into %s%s",
            *(pattern, dataset, folder, some),
        )
    return bool(files) and not missing


def _download(
    dataset: str, pattern: str, folder: Path, revision: str | None, revisions: dict[str, Any]
) -> dict[str, Any]:
    """Download the files; returns the entry in `REVISIONS_FILE`, which is saved first."""
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi().dataset_info(dataset, revision=revision)
    names = [one.rfilename for one in info.siblings or () if fnmatch(one.rfilename, pattern)]
    before = revisions.get(dataset, {})
    files = before.get("files", {}) if before.get("revision") == info.sha else {}
    entry = {"revision": info.sha, "files": files | {pattern: sorted(names)}}
    with atomic_file(folder / REVISIONS_FILE) as part:
        part.write_text(json.dumps(revisions | {dataset: entry}, indent=2), encoding="utf-8")
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
    """The commit of a data set that its files in a folder belong to; None: unknown."""
    return _read_revisions(folder).get(dataset, {}).get("revision")


def _read_revisions(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / REVISIONS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {name: entry for name, entry in entries if _is_entry(entry)}


def _is_entry(entry: Any) -> bool:
    """Whether an entry is valid: the revision of a data set, and its files by pattern."""
    files = entry.get("files", {}) if isinstance(entry, dict) else None
    return isinstance(files, dict) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names)
        for names in files.values()
    )
