"""Which of some choices an answer means."""

import re
from collections.abc import Sequence

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
