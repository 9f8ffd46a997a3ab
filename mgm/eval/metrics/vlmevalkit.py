"""Questions with choices as VLMEvalKit asks and scores them, with or without a judge."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question
from mgm.eval.metrics.multiple_choice import LETTERS, contained_choice, listed

# What pandas.read_csv, through which VLMEvalKit reads its tables, takes for a missing value.
MISSING = frozenset({
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
})  # fmt: skip
REFUSED = "Z"  # the letter of an answer that refuses
REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
OTHER_ANSWERS = "Other Answers"  # beside the right answer of an open question
FAILED = "Failed to obtain answer via API"
NEAR_THE_END = 5  # words from the end among which a letter has to be
JUDGE_ATTEMPTS, JUDGE_TOKENS = 3, 256
PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ANSWER_IS = re.compile(r"(?i)(?:correct\s+)?answer\s+is\s+\**([ABCD])\**")


def is_missing(value: object) -> bool:
    """Whether VLMEvalKit has no value where a table holds this."""
    return value is None or str(value) in MISSING


def as_read_back(text: str) -> str:
    """An answer as it comes back from the table in which VLMEvalKit keeps it."""
    return "nan" if text in MISSING else text


def choices_of(row: Mapping[str, Any], letters: str = LETTERS) -> dict[str, str]:
    """The choices of a row by their letters; letters may be missing between others.

    Source: `build_choices` of multiple_choice.py.
    """
    return {one: str(row[one]) for one in letters if not is_missing(row.get(one))}


def choice_prompt(row: Mapping[str, Any], choices: Mapping[str, str]) -> str:
    """What is asked. Source: `ImageMCQDataset.prompt` of image_mcq.py."""
    begin = "" if is_missing(row.get("hint")) else f"Hint: {row['hint']}\n"
    asked = f"{begin}Question: {row['question']}\n"
    if not choices:
        return asked
    options = f"Options:\n{listed(choices)}\n"
    return f"{asked}{options}Please select the correct answer from the options above. \n"


def choice_question(row: Mapping[str, Any], images: tuple[Path, ...]) -> Question:
    """The question in a row of one of its tables.

    Raises:
        KeyError: a field is missing.
    """
    choices = choices_of(row)
    return Question(
        id=str(row["index"]),
        text=choice_prompt(row, choices),
        images=images,
        answer=row["answer"],
        group=str(row["index"]),
        category=str(row.get("category") or ""),
        max_new_tokens=1024,
        facts={"question": row["question"], "choices": choices},
    )


def as_two_choices(question: Question) -> Question:
    """A question of MMMU; an open one, which has no choice A, has the right answer and another.

    Compat: choices from C on stay. Source: `MMMU_preproc` and `mcq_vanilla_eval` of
    multiple_choice.py.
    """
    choices, answer = question.facts["choices"], question.answer
    if "A" not in choices:
        others = {letter: text for letter, text in choices.items() if letter > "B"}
        choices = {"A": answer, "B": OTHER_ANSWERS} | others
    answer = answer if answer in tuple(LETTERS) else "A"
    return replace(question, answer=answer, facts={**question.facts, "choices": choices})


def choice_credit(answered: Answered, judge: Judge) -> float:
    """Whether the letter is right. Source: `eval_vanilla` of multiple_choice.py."""
    return float(meant_letter(answered, judge) == answered.question.answer)


def meant_letter(answered: Answered, judge: Judge) -> str | None:
    """The letter that an answer means, by rules or, where these find none, by a judge.

    Where VLMEvalKit draws a letter, because the judge names none, there is none here.
    Source: `extract_answer_from_item` of multiple_choice.py.

    Args:
        answered: whose question has `question` and `choices`, by letters, among its facts.
        judge: asked where it is a model.

    Raises:
        MGMError: the judge does not answer.
    """
    choices = dict(answered.question.facts["choices"])
    text = as_read_back(answered.text)
    letter = _inferred(text, choices)
    if letter is not None or not judge.is_model:
        return letter
    return judged_letter(answered.question, text, judge, lambda reply, _: _inferred(reply, choices))


def judged_letter(
    question: Question,
    text: str,
    judge: Judge,
    rule: Callable[[str, Mapping[str, str]], str | None],
) -> str | None:
    """The letter that a judge's reply names; None: none of its replies does.

    Args:
        question: has `question` and `choices`, by letters, among its facts.
        text: the answer.
        judge: a model.
        rule: finds the letter in a reply.

    Raises:
        MGMError: the judge does not answer.
    """
    choices = question.facts["choices"]
    prompt = judge_prompt(question.facts["question"], choices, text)
    for attempt in range(JUDGE_ATTEMPTS):
        reply = judge.ask(
            prompt,
            temperature=attempt / 2,
            max_tokens=JUDGE_TOKENS,
            accepts=lambda reply: rule(reply, choices) is not None,
        )
        letter = rule(reply, choices)
        if letter is not None:
            return letter
    return None


def inferred_letter(answer: str, choices: Mapping[str, str]) -> str | None:
    """The letter that an answer names, or whose choice it contains; None: neither.

    Source: `can_infer` of matching_util.py.
    """
    return _inferred(answer, dict(choices))


def _inferred(answer: str, choices: dict[str, str]) -> str | None:
    """See `inferred_letter`.

    Compat: choices become small letters where their texts are sought, so that the tries that follow
    compare their lengths as such, which differ from those of letters like İ (`can_infer_text`).
    """
    letter = _named_letter(answer, choices)
    if letter is not None:
        return letter
    if len(answer.lower()) > 2 * sum(map(len, choices.values())):
        return None
    choices.update({name: text.lower() for name, text in choices.items()})
    return contained_choice(answer, choices)


def _named_letter(answer: str, choices: Mapping[str, str]) -> str | None:
    """Source: `can_infer_option` of matching_util.py."""
    if FAILED in answer:
        return None
    if any(refusal in answer for refusal in REFUSALS):
        return REFUSED
    words = answer.translate(PUNCTUATION).split()
    named = [letter for letter in choices if letter in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - NEAR_THE_END:
        return named[0]
    if not named and REFUSED in words:
        return REFUSED
    # Compat: it takes the article in "the answer is a cat" for the letter A.
    found = _ANSWER_IS.search(answer)
    return found[1].upper() if found and found[1].upper() in choices else None


def judge_prompt(question: str, choices: Mapping[str, str], answer: str) -> str:
    """What a judge is asked: the task is that of both harnesses, the words are ours."""
    return (
        "A question has several choices, and somebody has answered it in their own words. Say "
        "which choice the answer means.\n"
        "Reply with the choice's letter and nothing else; reply Z if the answer means none of "
        "them, or several.\n\n"
        f"Question: {question}\nChoices:\n{listed(choices)}\n"
        f"Answer: {answer}\nLetter:"
    )
