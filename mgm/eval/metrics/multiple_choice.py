"""Which of some choices an answer means."""

import re
from collections.abc import Mapping, Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
Choices = Sequence[str] | Mapping[str, str]  # in order, or by their letters
LONG_ANSWER = 5  # words; a longer answer may hold a choice written out
# How an answer may name a letter in MMMU's parser, and where the last of several is looked for.
OFFICIAL_FORMS = (("({})", "({})"), (" {} ", " {} "))


def choices_by_letter(choices: Choices) -> Mapping[str, str]:
    """Choices by their letters."""
    if isinstance(choices, Mapping):
        return choices
    return dict(zip(LETTERS, choices, strict=False))


def format_choices(choices: Choices, form: str = "{letter}. {text}") -> str:
    """Choices with their letters, a line each."""
    pairs = choices_by_letter(choices).items()
    return "\n".join(form.format(letter=letter, text=text) for letter, text in pairs)


def chosen_letter(answer: str, count: int) -> str | None:
    """The letter that an answer begins with or consists of; None: it names none.

    Args:
        answer: the model's, such as "B", "(B)", "B. a dog" or "The answer is B."
        count: of choices.
    """
    valid = LETTERS[:count]
    text = answer.strip()
    if text and text[0] in valid and not text[1:2].isalnum():
        return text[0]
    found = re.findall(rf"\(([{valid}])\)|\b([{valid}])\b(?![’'])", text)
    letters = {first or second for first, second in found}
    return letters.pop() if len(letters) == 1 else None


def contained_choice(answer: str, choices: Choices) -> str | None:
    """The letter of the only choice that an answer contains."""
    low = answer.lower()
    meant = [letter for letter, one in choices_by_letter(choices).items() if one.lower() in low]
    return meant[0] if len(meant) == 1 else None


def parse_choice(
    text: str, choices: Choices, forms: Sequence[tuple[str, str]] = OFFICIAL_FORMS
) -> str | None:
    """The letter that an answer means; None: it means none.

    Args:
        text: the answer.
        choices: there are.
        forms: how a letter may be named, the first that is found; each with the form by which the
            last of several is chosen.

    Source: `parse_multi_choice_response` of MMMU's eval_utils.py.
    """
    names = choices_by_letter(choices)
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    for form, order in forms:
        named = [letter for letter in names if form.format(letter) in text]
        if named:
            return max(named, key=lambda letter: text.rfind(order.format(letter)))
    if len(text.split()) > LONG_ANSWER:
        low = text.lower()
        named = [letter for letter, name in names.items() if name.lower() in low]
        if named:
            return max(named, key=lambda letter: low.rfind(names[letter].lower()))
    return None
