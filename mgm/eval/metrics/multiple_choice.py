"""Which of some choices an answer means."""

import re
from collections.abc import Sequence
from itertools import product

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def listed(choices: Sequence[str], form: str = "{letter}. {text}") -> str:
    """Choices with their letters, a line each."""
    lines = zip(LETTERS, choices, strict=False)
    return "\n".join(form.format(letter=letter, text=text) for letter, text in lines)


def chosen_letter(answer: str, count: int) -> str | None:
    """The letter that an answer begins with or consists of; None: it names none.

    Args:
        answer: the model's, such as "B", "(B)", "B. a dog" or "The answer is B."
        count: of choices.
    """
    valid = LETTERS[:count]
    text = answer.strip()
    if text[:1] in valid and (len(text) == 1 or not text[1].isalnum()):
        return text[:1]
    found = re.findall(rf"\(([{valid}])\)|\b([{valid}])\b(?![’'])", text)
    letters = {first or second for first, second in found}
    return letters.pop() if len(letters) == 1 else None


# What lmms-eval takes away around a letter, in this order. Source: mmbench_evals.py.
_AROUND = (
    *product(("",), (".", ",", ":", ")", ").")),
    ("(", ")"),
    ("(", ")."),
    *product((":",), ("", ",", ".", ")", ").")),
)
NEAR_THE_END = 5  # words from the end among which VLMEvalKit looks for a letter


def lmms_eval_letter(answer: str, choices: Sequence[str]) -> str | None:
    """The letter that an answer names, or whose choice it contains; None: a judge has to say.

    As there, five letters count, however many choices there are; "A" in more than three words is
    taken for an article. Source: lmms-eval's mmbench_evals.py.
    """
    words = answer.split()
    letters = LETTERS[:5]
    named = [letter for letter in letters if letter in words]
    if len(named) == 1 and not ("A" in words and len(words) > 3):
        return named[0]
    for before, after in _AROUND:
        named = [letter for letter in letters if f"{before}{letter}{after}" in words]
        if len(named) == 1:
            return named[0]
    return contained_choice(answer, choices[:4])


def vlmevalkit_letter(answer: str, choices: Sequence[str]) -> str | None:
    """The letter that an answer names near its end, or whose choice it contains; None: neither.

    "Z" means that it refuses. Source: VLMEvalKit's matching_util.py.
    """
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", answer).split()
    named = [letter for letter in LETTERS[: len(choices)] if letter in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - NEAR_THE_END:
        return named[0]
    if not named and "Z" in words:
        return "Z"
    if len(answer) > 2 * sum(map(len, choices)):
        return None
    return contained_choice(answer, choices)


def contained_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The letter of the only choice that an answer contains."""
    low = answer.lower()
    meant = [letter for letter, one in zip(LETTERS, choices, strict=False) if one.lower() in low]
    return meant[0] if len(meant) == 1 else None
