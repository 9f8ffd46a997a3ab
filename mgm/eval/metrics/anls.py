"""How near a text is to another, letter by letter: the scores of texts read from documents."""

LEAST = 0.5  # similarity, below which an answer is wrong


def edit_distance(first: str, second: str) -> int:
    """The least number of letters to put in, take out or exchange (Levenshtein 1966)."""
    row = list(range(len(second) + 1))
    for letter in first:
        diagonal, row[0] = row[0], row[0] + 1
        for place, other in enumerate(second, start=1):
            cost = min(row[place] + 1, row[place - 1] + 1, diagonal + (letter != other))
            diagonal, row[place] = row[place], cost
    return row[-1]


def anls(text: str, answer: str) -> float:
    """Normalised similarity from 0 to 1 of an answer to a right one (Biten et al. 2019).

    Source: https://arxiv.org/abs/1905.13648, eq. 1, and `STVQAANLSEvaluator` of the published
    m4c_evaluator.py.
    """
    first, second = text.lower().strip(), answer.lower().strip()
    return _kept(edit_distance(first, second), max(len(first), len(second)))


def harness_anls(text: str, answer: str) -> float:
    """The same as lmms-eval and VLMEvalKit count it, after Qwen-VL's infographicsvqa_eval.py.

    Blanks in a row count as one, but the length that is divided by has them all.
    """
    first, second = (" ".join(one.lower().split()) for one in (text, answer))
    return _kept(edit_distance(first, second), max(len(text), len(answer)))


def _kept(distance: int, length: int) -> float:
    similarity = 1 - distance / length if length else 1.0
    return similarity if similarity >= LEAST else 0.0
