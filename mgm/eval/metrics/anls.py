"""Average normalised Levenshtein similarity (ANLS): the score of texts read from documents."""

MIN_SIMILARITY = 0.5  # below it an answer is wrong


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

    Whitespace in a row counts as one blank, but the length that is divided by has all of it.

    Source: https://arxiv.org/abs/1905.13648, eq. 1, as the evaluator of the DocVQA challenge counts
    it (https://rrc.cvc.uab.es/?ch=17), and after it `anls` of lmms-eval and `anls_compute` of
    VLMEvalKit.
    """
    first, second = (" ".join(one.lower().split()) for one in (text, answer))
    # Upper case, which has more characters in a few languages, decides the length there.
    length = max(len(text.upper()), len(answer.upper()))
    if length and 1 - abs(len(first) - len(second)) / length < MIN_SIMILARITY:
        return 0.0  # whatever the characters: an answer of any length is scored in no time
    similarity = 1 - edit_distance(first, second) / length if length else 1.0
    return similarity if similarity >= MIN_SIMILARITY else 0.0
