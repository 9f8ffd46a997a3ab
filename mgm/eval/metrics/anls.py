"""Average normalised Levenshtein similarity (ANLS), the metric of DocVQA and InfoVQA."""

MIN_SIMILARITY = 0.5  # lower similarities score 0


def edit_distance(first: str, second: str) -> int:
    """The minimum number of insertions, deletions and substitutions (Levenshtein 1966)."""
    row = list(range(len(second) + 1))
    for letter in first:
        diagonal, row[0] = row[0], row[0] + 1
        for column, other in enumerate(second, start=1):
            cost = min(row[column] + 1, row[column - 1] + 1, diagonal + (letter != other))
            diagonal, row[column] = row[column], cost
    return row[-1]


def anls(text: str, target: str) -> float:
    """Normalised similarity of a response to a target, from 0 to 1 (Biten et al. 2019).

    Runs of whitespace count as one space, but not in the length of the denominator.

    Source: https://arxiv.org/abs/1905.13648, eq. 1, as the evaluator of the DocVQA challenge counts
    it (https://rrc.cvc.uab.es/?ch=17), and after it `anls` of lmms-eval and `anls_compute` of
    VLMEvalKit.
    """
    first, second = (" ".join(one.lower().split()) for one in (text, target))
    # Compat: the length is that in upper case, which in a few languages has more characters.
    length = max(len(text.upper()), len(target.upper()))
    if length and 1 - abs(len(first) - len(second)) / length < MIN_SIMILARITY:
        return 0.0  # a bound by length, which keeps long responses fast
    similarity = 1 - edit_distance(first, second) / length if length else 1.0
    return similarity if similarity >= MIN_SIMILARITY else 0.0
