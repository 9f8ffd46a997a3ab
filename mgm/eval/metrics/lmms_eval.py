"""The letter that an answer names, as lmms-eval's tasks find it."""

import string
from collections.abc import Mapping, Sequence
from itertools import product

from mgm.eval.metrics.multiple_choice import LETTERS, Choices, contained_choice, parse_choice
from mgm.eval.metrics.vlmevalkit import PUNCTUATION_TO_BLANKS, REFUSAL_LETTER, REFUSALS

# What MMBench's task takes away around a letter, in this order. Source: mmbench_evals.py.
_AROUND = (
    *product(("",), (".", ",", ":", ")", ").")),
    ("(", ")"),
    ("(", ")."),
    *product((":",), ("", ",", ".", ")", ").")),
)
_FAILED = "Failed to obtain answer via API"
# After which a letter is looked for. Source: _task_utils/mcq_extract.py.
_PHRASES = (
    *("the answer is", "answer is", "the correct answer is", "correct answer is"),
    *("the best answer is", "best answer is", "the correct option is", "correct option is"),
    *("the best option is", "best option is", "the choice is", "choice is"),
    *("the correct choice is", "correct choice is", "i choose", "i select", "i pick"),
    *("my answer is", "my choice is", "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选"),
    "答えは",
)
# How much the forms of a letter weigh, and those that the start, the end and a phrase do.
_FORMS = (("({})", 6), ("{}.", 5), ("{}:", 4), ("{})", 3), ("{} ", 2))
_START, _END, _PHRASE = 10, 9, 7


def mmbench_letter(answer: str, choices: Mapping[str, str]) -> str | None:
    """The letter that an answer names, or whose choice it contains; None: neither.

    As there, five letters count, however many choices there are; "A" in more than three words is
    taken for an article. Source: `can_infer` of mmbench_evals.py.
    """
    if _FAILED in answer:
        return contained_choice(answer, choices)
    words = answer.split()
    letters = LETTERS[:5]
    named = [letter for letter in letters if letter in words]
    if len(named) == 1 and not ("A" in words and len(words) > 3):
        return named[0]
    for before, after in _AROUND:
        named = [letter for letter in letters if f"{before}{letter}{after}" in words]
        if len(named) == 1:
            return named[0]
    return contained_choice(answer, choices)


def hrbench_letter(answer: str, choices: Mapping[str, str]) -> str | None:
    """The letter that an answer names, "Z" if it refuses, or whose choice it contains.

    Source: `can_infer` of lmms-eval's hrbench, hrbench_evals.py.
    """
    if _FAILED not in answer:
        if any(refusal in answer for refusal in REFUSALS):
            return REFUSAL_LETTER
        words = answer.translate(PUNCTUATION_TO_BLANKS).split()
        named = [letter for letter in choices if letter in words]
        if len(named) == 1:
            return named[0]
        if not named and REFUSAL_LETTER in words:
            return REFUSAL_LETTER
    return contained_choice(answer, choices)


def lmms_eval_choice(text: str, choices: Choices) -> str | None:
    """The letter that an answer means; None: it means none.

    Compat: letters count at the end of words. Source: `parse_mmmu_multi_choice_response` of
    _task_utils/mmmu_mcq_utils.py.
    """
    return parse_choice(text, choices, (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")))


def mcq_letter(answer: str, letters: Sequence[str]) -> str:
    """The letter in the form that weighs most, the last of several; empty: there is none.

    Source: `extract_mcq_answer` of _task_utils/mcq_extract.py.
    """
    text = answer.strip()
    if not text:
        return ""
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    text = f" {text} "
    bare, low = text.strip(), text.lower()
    found = [
        (weight, text.rfind(form.format(letter)), letter)
        for form, weight in _FORMS
        for letter in letters
        if form.format(letter) in text
    ]
    for phrase in _PHRASES:
        begin = low.find(phrase)
        places = [(text.find(one, begin + len(phrase)), one) for one in letters if begin >= 0]
        found += [(_PHRASE, place, letter) for place, letter in places if place >= 0]
    for letter in letters:
        if bare.startswith(letter) and not bare[1:2].isalpha():
            found.append((_START, 0, letter))
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            found.append((_END, len(text) - 1, letter))
    found = found or [(0, text.rfind(letter), letter) for letter in letters if letter in text]
    return max(found, key=lambda one: one[:2])[2] if found else ""


def exact_match(answer: str, right: str) -> bool:
    """Whether two texts are equal but for case and ASCII punctuation.

    Source: `exact_match_hf_evaluate` of api/metrics.py.
    """
    marks = str.maketrans("", "", string.punctuation)
    first, second = (one.lower().translate(marks) for one in (answer, right))
    return first == second
