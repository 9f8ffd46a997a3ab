"""Questions with choices as VLMEvalKit asks and scores them, with or without a judge."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response
from mgm.eval.metrics.multiple_choice import LETTERS, contained_choice, format_choices

# What pandas.read_csv, through which VLMEvalKit reads its tables, takes for a missing value.
MISSING = frozenset({
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
})  # fmt: skip
REFUSAL_LETTER = "Z"  # the letter of an answer that refuses
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
PUNCTUATION_TO_BLANKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
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
    """What is asked. Source: `ImageMCQDataset.build_prompt` of image_mcq.py."""
    begin = "" if is_missing(row.get("hint")) else f"Hint: {row['hint']}\n"
    asked = f"{begin}Question: {row['question']}\n"
    if not choices:
        return asked
    options = f"Options:\n{format_choices(choices)}\n"
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
        target=row["answer"],
        group=str(row["index"]),
        category=str(row.get("category") or ""),
        max_new_tokens=1024,
        metadata={"question": row["question"], "choices": choices},
    )


def as_two_choices(question: Question) -> Question:
    """A question of MMMU; an open one, which has no choice A, has the right answer and another.

    Compat: choices from C on stay. Source: `MMMU_preproc` and `mcq_vanilla_eval` of
    multiple_choice.py.
    """
    choices, answer = question.metadata["choices"], question.target
    if "A" not in choices:
        others = {letter: text for letter, text in choices.items() if letter > "B"}
        choices = {"A": answer, "B": OTHER_ANSWERS} | others
    answer = answer if answer in tuple(LETTERS) else "A"
    return replace(question, target=answer, metadata={**question.metadata, "choices": choices})


def score_multiple_choice(response: Response, judge: Judge) -> float:
    """Whether the letter is right. Source: `eval_vanilla` of multiple_choice.py."""
    return float(meant_letter(response, judge) == response.question.target)


def meant_letter(response: Response, judge: Judge) -> str | None:
    """The letter that an answer means, by rules or, where these find none, by a judge.

    Where VLMEvalKit draws a letter, because the judge names none, there is none here.
    Source: `extract_answer_from_item` of multiple_choice.py.

    Args:
        response: whose question has `question` and `choices`, by letters, in its metadata.
        judge: asked where it is a model.

    Raises:
        MGMError: the judge does not answer.
    """
    choices = dict(response.question.metadata["choices"])
    text = as_read_back(response.text)
    letter = _inferred(text, choices)
    if letter is not None or not judge.is_model:
        return letter
    return judged_letter(response.question, text, judge, lambda reply, _: _inferred(reply, choices))


def judged_letter(
    question: Question,
    text: str,
    judge: Judge,
    rule: Callable[[str, Mapping[str, str]], str | None],
) -> str | None:
    """The letter that a judge's reply names; None: none of its replies does.

    Args:
        question: has `question` and `choices`, by letters, in its metadata.
        text: the answer.
        judge: a model.
        rule: finds the letter in a reply.

    Raises:
        MGMError: the judge does not answer.
    """
    choices = question.metadata["choices"]
    prompt = choice_judge_prompt(question.metadata["question"], choices, text)
    for attempt in range(JUDGE_ATTEMPTS):
        reply = judge.complete(
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
    letter = _stated_letter(answer, choices)
    if letter is not None:
        return letter
    if len(answer.lower()) > 2 * sum(map(len, choices.values())):
        return None
    choices.update({name: text.lower() for name, text in choices.items()})
    return contained_choice(answer, choices)


def _stated_letter(answer: str, choices: Mapping[str, str]) -> str | None:
    """Source: `can_infer_option` of matching_util.py."""
    if FAILED in answer:
        return None
    if any(refusal in answer for refusal in REFUSALS):
        return REFUSAL_LETTER
    words = answer.translate(PUNCTUATION_TO_BLANKS).split()
    named = [letter for letter in choices if letter in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - NEAR_THE_END:
        return named[0]
    if not named and REFUSAL_LETTER in words:
        return REFUSAL_LETTER
    # Compat: it takes the article in "the answer is a cat" for the letter A.
    found = _ANSWER_IS.search(answer)
    return found[1].upper() if found and found[1].upper() in choices else None


def choice_judge_prompt(question: str, choices: Mapping[str, str], answer: str) -> str:
    """What a judge is asked: the task is that of both harnesses, the words are ours."""
    return (
        "A question has several choices, and somebody has answered it in their own words. Say "
        "which choice the answer means.\n"
        "Reply with the choice's letter and nothing else; reply Z if the answer means none of "
        "them, or several.\n\n"
        f"Question: {question}\nChoices:\n{format_choices(choices)}\n"
        f"Answer: {answer}\nLetter:"
    )
