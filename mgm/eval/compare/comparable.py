"""Checks that two scores are comparable: same questions, targets and judge."""

from collections.abc import Sequence

from mgm.errors import MGMError
from mgm.eval.report.score import Score

# Options that affect responses or credits.
DECIDING = ("max_new_tokens", "strip_thinking")


def check_comparable(one: Score, other: Score, shared: Sequence[str]) -> tuple[str, ...]:
    """Check that two scores are of the same questions, scored in the same way.

    Args:
        one: score of the baseline.
        other: score of another model.
        shared: ids of the questions in both scores.

    Returns:
        Remarks: settings that differ, and what could not be checked.

    Raises:
        MGMError: no shared questions, or different questions, targets or judges.
    """
    title = f"{one.benchmark}, {one.protocol}"
    if not shared:
        raise MGMError(f"{title}: the models share no scored question")
    if one.judge != other.judge:
        raise MGMError(f"{title}: judged by {one.judge!r} and by {other.judge!r}; use one judge")
    differs = next((name for name in shared if _differs(one, other, name)), None)
    if differs is not None:
        raise MGMError(
            f"{title}: question {differs} or its target differs between the models; "
            "run both on the same data"
        )
    remarks = []
    if not (one.question_hashes and other.question_hashes):
        remarks += _unchecked(one, other)
    first, second = (score.run.get("settings", {}) for score in (one, other))
    for name in DECIDING:
        if first and second and first.get(name) != second.get(name):
            values = f"{first.get(name)} and {second.get(name)}"
            remarks.append(f"--{name.replace('_', '-')} differs: {values}")
    return tuple(remarks)


def _differs(one: Score, other: Score, name: str) -> bool:
    """Whether a shared question differs, as far as both files allow to check."""
    hashes = [score.question_hashes.get(name) for score in (one, other)]
    if None not in hashes and hashes[0] != hashes[1]:
        return True
    both_have_inputs = bool(one.inputs) == bool(other.inputs)
    return both_have_inputs and (
        one.groups[name] != other.groups[name] or one.inputs.get(name) != other.inputs.get(name)
    )


def _unchecked(one: Score, other: Score) -> list[str]:
    """Remarks if a score of an older version has no hashes of questions."""
    digests = [score.run.get("data", {}).get("digest") for score in (one, other)]
    if None not in digests and digests[0] == digests[1]:
        return []
    return [
        "could not check that the questions are the same: a score.json was written by an older "
        "version; run again with --score-only"
    ]
