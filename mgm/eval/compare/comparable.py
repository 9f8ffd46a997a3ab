"""Whether two scores may be compared: the same questions, right answers and judge."""

from collections.abc import Sequence

from mgm.errors import MGMError
from mgm.eval.report.score import Score

# Settings of the command line that change answers or credits.
DECIDING = ("max_new_tokens", "strip_thinking")


def check_comparable(one: Score, other: Score, shared: Sequence[str]) -> tuple[str, ...]:
    """Check that two scores are of the same questions, scored in the same way.

    Args:
        one: score of the baseline.
        other: of another model.
        shared: ids of the questions that both have.

    Returns:
        What a reader should know: settings that differ, and what could not be checked.

    Raises:
        MGMError: there are no shared questions, or they, their right answers or the judges differ.
    """
    title = f"{one.benchmark}, {one.protocol}"
    if not shared:
        raise MGMError(f"{title}: the models have no scored question in common")
    if one.judge != other.judge:
        raise MGMError(f"{title}: judged by {one.judge!r} and by {other.judge!r}; use one judge")
    differs = next((name for name in shared if _differs(one, other, name)), None)
    if differs is not None:
        raise MGMError(
            f"{title}: question {differs} or its right answer differs between the models; "
            "ask both of the same data"
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
    """Whether a question of both scores is another in each, as far as both files tell."""
    hashes = [score.question_hashes.get(name) for score in (one, other)]
    if None not in hashes and hashes[0] != hashes[1]:
        return True
    both_have_inputs = bool(one.inputs) == bool(other.inputs)
    return both_have_inputs and (
        one.groups[name] != other.groups[name] or one.inputs.get(name) != other.inputs.get(name)
    )


def _unchecked(one: Score, other: Score) -> list[str]:
    """Remarks where a score of an older version has no hashes of its questions."""
    digests = [score.run.get("data", {}).get("digest") for score in (one, other)]
    if None not in digests and digests[0] == digests[1]:
        return []
    return [
        "whether the questions are the same could not be checked: a score.json was written by an "
        "older version; run again with --score-only"
    ]
