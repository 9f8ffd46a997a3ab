"""Compares the output folders of several models with that of the first."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mgm.errors import MGMError
from mgm.eval.compare.comparison import MARGIN, Comparison, compare_scores
from mgm.eval.report.score import load_score, score_files
from mgm.eval.tasks.benchmark import Benchmark


def compare_folders(
    folders: Sequence[Path], benchmarks: Mapping[str, Benchmark], margin: float = MARGIN
) -> tuple[list[Comparison], list[str]]:
    """Compare the scores in several output folders with those in the first.

    Args:
        folders: output folders, the baseline first.
        benchmarks: benchmarks by name.
        margin: see `compare_scores`.

    Returns:
        Comparisons, and an error message for each score that could not be compared.

    Raises:
        MGMError: no benchmark was scored for two models with the same protocol.
    """
    names = folder_names(folders)
    files = [{path.relative_to(one): path for path in score_files(one)}
             for one in folders]  # fmt: skip
    comparisons, problems = [], []
    for name, others in zip(names[1:], files[1:], strict=True):
        for name_in_folder in sorted(files[0].keys() & others.keys()):
            try:
                scores = load_score(files[0][name_in_folder]), load_score(others[name_in_folder])
                benchmark = benchmarks.get(scores[0].benchmark.partition(":")[0])
                if benchmark is None:
                    raise MGMError(
                        f"{files[0][name_in_folder]}: unknown benchmark {scores[0].benchmark!r}"
                    )
                if all(score.value is not None for score in scores):
                    comparisons.append(compare_scores(benchmark, scores, (names[0], name), margin))
            except MGMError as error:
                problems.append(f"{name}: {error}")
    if not comparisons and not problems:
        listed = ", ".join(map(str, folders))
        raise MGMError(f"{listed}: no benchmark was scored for two models with one protocol")
    return comparisons, problems


def scored_by_one(folders: Sequence[Path]) -> list[str]:
    """Lines about scores that only the baseline or only the other model has.

    Args:
        folders: output folders, the baseline first.
    """
    names = folder_names(folders)
    scored = [
        {path.parent.relative_to(one).as_posix() for path in score_files(one)} for one in folders
    ]
    lines = []
    for name, others in zip(names[1:], scored[1:], strict=True):
        for owner, own in (
            (names[0], scored[0] - others),
            (name, others - scored[0]),
        ):
            if own:
                pair = f"{names[0]} and {name}"
                lines.append(f"{pair}: only {owner} has {', '.join(sorted(own))}")
    return lines


def folder_names(folders: Sequence[Path]) -> list[str]:
    """A name for each folder: as many of its last path components as make names unique."""
    parts = [folder.resolve().parts for folder in folders]
    different = len(set(parts))
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == different:
            break
    return names
