"""Letter extraction of lmms-eval's multiple-choice tasks."""

import re
import string
from collections.abc import Mapping, Sequence
from itertools import product

from mgm.eval.metrics.multiple_choice import LETTERS, Choices, contained_choice, parse_choice
from mgm.eval.metrics.vlmevalkit import PUNCTUATION_TO_BLANKS, REFUSAL_LETTER, REFUSALS

# Characters around a letter in MMBench's task, in this order. Source: mmbench_evals.py.
_SURROUNDINGS = (
    *product(("",), (".", ",", ":", ")", ").")),
    ("(", ")"),
    ("(", ")."),
    *product((":",), ("", ",", ".", ")", ").")),
)
_FAILED = "Failed to obtain answer via API"
# Phrases before a letter. Source: _task_utils/mcq_extract.py.
_PHRASES = (
    *("the answer is", "answer is", "the correct answer is", "correct answer is"),
    *("the best answer is", "best answer is", "the correct option is", "correct option is"),
    *("the best option is", "best option is", "the choice is", "choice is"),
    *("the correct choice is", "correct choice is", "i choose", "i select", "i pick"),
    *("my answer is", "my choice is", "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选"),
    "答えは",
)
# Weights of the forms of a letter, and of a letter at the start, at the end and after a phrase.
_LETTER_FORMS = (("({})", 6), ("{}.", 5), ("{}:", 4), ("{})", 3), ("{} ", 2))
_START_WEIGHT, _END_WEIGHT, _PHRASE_WEIGHT = 10, 9, 7
# Forms of a letter in V*, in capitals; the first that matches counts.
_VSTAR_FORMS = (
    r"^([A-D])",
    r"(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+([A-D])",
    r"\(([A-D])\)",
    r"([A-D])\s*[.)\]]",
    r"(?:^|\s)([A-D])(?:\s|$)",
)
# Forms of a letter in MMVP; the first that matches counts.
_MMVP_FORMS = (
    r"^\s*\(?([AB])\)?\.?\s*$",
    r"^\s*\(?([AB])\)?[\.\s]",
    r"answer\s+is\s+\(?([AB])\)?",
    r"option\s+\(?([AB])\)?",
    r"\(?([AB])\)?(?:\s|$)",
)


def mmbench_letter(text: str, choices: Mapping[str, str]) -> str | None:
    """MMBench: the letter in a response, or of the choice that it contains; None: neither.

    Compat: five letters are valid, however many choices there are; "A" in more than three words is
    an article. Source: `can_infer` of mmbench_evals.py.
    """
    if _FAILED in text:
        return contained_choice(text, choices)
    words = text.split()
    letters = LETTERS[:5]
    stated = [letter for letter in letters if letter in words]
    if len(stated) == 1 and not ("A" in words and len(words) > 3):
        return stated[0]
    for before, after in _SURROUNDINGS:
        stated = [letter for letter in letters if f"{before}{letter}{after}" in words]
        if len(stated) == 1:
            return stated[0]
    return contained_choice(text, choices)


def hrbench_letter(text: str, choices: Mapping[str, str]) -> str | None:
    """HR-Bench: the letter in a response, "Z" for a refusal, or of the choice that it contains.

    Source: `can_infer` of lmms-eval's hrbench, hrbench_evals.py.
    """
    if _FAILED not in text:
        if any(refusal in text for refusal in REFUSALS):
            return REFUSAL_LETTER
        words = text.translate(PUNCTUATION_TO_BLANKS).split()
        stated = [letter for letter in choices if letter in words]
        if len(stated) == 1:
            return stated[0]
        if not stated and REFUSAL_LETTER in words:
            return REFUSAL_LETTER
    return contained_choice(text, choices)


def vstar_letter(text: str) -> str | None:
    """V*: the letter in a response; None: none, or several.

    Compat: a response that starts with A, B, C or D means that letter, even if it starts a word.
    Source: `extract_answer_letter` of lmms-eval's vstar_bench, utils.py.
    """
    text = text.strip().upper()
    letter = _first_match(_VSTAR_FORMS, text)
    if letter is not None:
        return letter
    letters = re.findall(r"[A-D]", text)
    return letters[0] if len(letters) == 1 else None


def mmvp_letter(text: str) -> str:
    """MMVP: the letter in a response, A or B; empty: none.

    Source: `_extract_answer_letter` of lmms-eval's mmvp, utils.py.
    """
    text = text.strip()
    letter = _first_match(_MMVP_FORMS, text, re.IGNORECASE)
    if letter is not None:
        return letter.upper()
    return text[:1].upper() if text[:1].upper() in ("A", "B") else ""


def _first_match(patterns: Sequence[str], text: str, flags: int = 0) -> str | None:
    """The first group of the first pattern that matches."""
    matches = (re.search(pattern, text, flags) for pattern in patterns)
    return next((match[1] for match in matches if match), None)


def lmms_eval_choice(text: str, choices: Choices) -> str | None:
    """MMMU: the letter in a response; None: none.

    Compat: a letter at the end of a word counts. Source: `parse_mmmu_multi_choice_response` of
    _task_utils/mmmu_mcq_utils.py.
    """
    return parse_choice(text, choices, (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")))


def mcq_letter(text: str, letters: Sequence[str]) -> str:
    """The letter in the form of the highest weight, the last of several; empty: none.

    Source: `extract_mcq_answer` of _task_utils/mcq_extract.py.
    """
    text = text.strip()
    if not text:
        return ""
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    text = f" {text} "
    bare, low = text.strip(), text.lower()
    candidates = [
        (weight, text.rfind(form.format(letter)), letter)
        for form, weight in _LETTER_FORMS
        for letter in letters
        if form.format(letter) in text
    ]
    for phrase in _PHRASES:
        start = low.find(phrase)
        positions = [(text.find(one, start + len(phrase)), one) for one in letters if start >= 0]
        candidates += [
            (_PHRASE_WEIGHT, position, letter) for position, letter in positions if position >= 0
        ]
    for letter in letters:
        if bare.startswith(letter) and not bare[1:2].isalpha():
            candidates.append((_START_WEIGHT, 0, letter))
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            candidates.append((_END_WEIGHT, len(text) - 1, letter))
    candidates = candidates or [
        (0, text.rfind(letter), letter) for letter in letters if letter in text
    ]
    return max(candidates, key=lambda one: one[:2])[2] if candidates else ""


def exact_match(text: str, target: str) -> bool:
    """Whether two texts are equal, ignoring case and ASCII punctuation.

    Source: `exact_match_hf_evaluate` of api/metrics.py.
    """
    marks = str.maketrans("", "", string.punctuation)
    first, second = (one.lower().translate(marks) for one in (text, target))
    return first == second
