"""Multiple choice: formatting of choices, and extraction of the chosen letter."""

import random
import re
from collections.abc import Iterable, Mapping, Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
Choices = Sequence[str] | Mapping[str, str]  # a list in order, or a mapping by letter
GUESS_SEED = 42  # seed of random guesses in the published evaluator
LONG_RESPONSE = 5  # words; a longer response may contain the text of a choice
# Forms of a letter in MMMU's parser, each with the form by which the last of several is found.
OFFICIAL_FORMS = (("({})", "({})"), (" {} ", " {} "))


def choices_by_letter(choices: Choices) -> Mapping[str, str]:
    """Map letters to choices."""
    if isinstance(choices, Mapping):
        return choices
    return dict(zip(LETTERS, choices, strict=False))


def format_choices(choices: Choices, form: str = "{letter}. {text}") -> str:
    """Format choices with their letters, one per line."""
    pairs = choices_by_letter(choices).items()
    return "\n".join(form.format(letter=letter, text=text) for letter, text in pairs)


def chosen_letter(text: str, count: int) -> str | None:
    """The letter that a response starts with, or the only one in it; None: neither.

    Args:
        text: the response, such as "B", "(B)", "B. a dog" or "The answer is B."
        count: number of choices.
    """
    valid = LETTERS[:count]
    stripped = text.strip()
    if stripped and stripped[0] in valid and not stripped[1:2].isalnum():
        return stripped[0]
    matches = re.findall(rf"\(([{valid}])\)|\b([{valid}])\b(?![’'])", stripped)
    letters = {first or second for first, second in matches}
    return letters.pop() if len(letters) == 1 else None


def contained_choice(text: str, choices: Choices) -> str | None:
    """The letter of the only choice whose text a response contains; None: none or several."""
    low = text.lower()
    letters = [
        letter for letter, choice in choices_by_letter(choices).items() if choice.lower() in low
    ]
    return letters[0] if len(letters) == 1 else None


def parse_choice(
    text: str, choices: Choices, forms: Sequence[tuple[str, str]] = OFFICIAL_FORMS
) -> str | None:
    """The letter in a response by MMMU's rules; None: none.

    Args:
        text: the response.
        choices: choices of the question.
        forms: forms of a letter, of which the first that occurs counts, each with the form that
            finds the last of several letters.

    Source: `parse_multi_choice_response` of MMMU's eval_utils.py.
    """
    by_letter = choices_by_letter(choices)
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    for form, order in forms:
        stated = [letter for letter in by_letter if form.format(letter) in text]
        if stated:
            return max(stated, key=lambda letter: text.rfind(order.format(letter)))
    if len(text.split()) > LONG_RESPONSE:
        low = text.lower()
        stated = [letter for letter, name in by_letter.items() if name.lower() in low]
        if stated:
            return max(stated, key=lambda letter: low.rfind(by_letter[letter].lower()))
    return None


def random_letter(question_id: str, letters: Iterable[str]) -> str:
    """A random guess for a response without a letter, as MMMU's evaluators make it.

    Seeded by the question, so that it does not depend on other questions.
    """
    return random.Random(f"{GUESS_SEED} {question_id}").choice(list(letters))
