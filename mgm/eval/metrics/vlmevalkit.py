"""VLMEvalKit's multiple choice: prompts, letter extraction, LLM judge."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response
from mgm.eval.metrics.multiple_choice import LETTERS, contained_choice, format_choices

# Missing values of pandas.read_csv, with which VLMEvalKit reads its tables.
MISSING = frozenset({
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
})  # fmt: skip
REFUSAL_LETTER = "Z"  # letter of refusals
REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
OTHER_ANSWERS = "Other Answers"  # the wrong choice of an open question
FAILED = "Failed to obtain answer via API"
NEAR_THE_END = 5  # words from the end; a lone letter counts only there
JUDGE_ATTEMPTS, JUDGE_TOKENS = 3, 256
PUNCTUATION_TO_BLANKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ANSWER_IS = re.compile(r"(?i)(?:correct\s+)?answer\s+is\s+\**([ABCD])\**")


def is_missing(value: object) -> bool:
    """Whether VLMEvalKit reads a cell of a table as missing."""
    return value is None or str(value) in MISSING


def as_stored(text: str) -> str:
    """A response after VLMEvalKit has stored it in a table and read it again."""
    return "nan" if text in MISSING else text


def choices_of(row: Mapping[str, Any], letters: str = LETTERS) -> dict[str, str]:
    """The choices of a row by letter; there may be gaps between letters.

    Source: `build_choices` of multiple_choice.py.
    """
    return {one: str(row[one]) for one in letters if not is_missing(row.get(one))}


def choice_prompt(row: Mapping[str, Any], choices: Mapping[str, str]) -> str:
    """The prompt. Source: `ImageMCQDataset.build_prompt` of image_mcq.py."""
    hint = "" if is_missing(row.get("hint")) else f"Hint: {row['hint']}\n"
    prompt = f"{hint}Question: {row['question']}\n"
    if not choices:
        return prompt
    options = f"Options:\n{format_choices(choices)}\n"
    return f"{prompt}{options}Please select the correct answer from the options above. \n"


def choice_question(row: Mapping[str, Any], images: tuple[Path, ...]) -> Question:
    """Create a question from a row of one of VLMEvalKit's tables.

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


def as_multiple_choice(question: Question) -> Question:
    """Turn an open question of MMMU, which has no choice A, into one with the target and another.

    Compat: choices from C on remain. Source: `MMMU_preproc` and `mcq_vanilla_eval` of
    multiple_choice.py.
    """
    choices, target = question.metadata["choices"], question.target
    if "A" not in choices:
        others = {letter: text for letter, text in choices.items() if letter > "B"}
        choices = {"A": target, "B": OTHER_ANSWERS} | others
    target = target if target in tuple(LETTERS) else "A"
    return replace(question, target=target, metadata={**question.metadata, "choices": choices})


def score_multiple_choice(response: Response, judge: Judge) -> float:
    """Whether the letter is the target. Source: `eval_vanilla` of multiple_choice.py."""
    return float(response_letter(response, judge) == response.question.target)


def response_letter(response: Response, judge: Judge) -> str | None:
    """The letter of a response, by rules, else by a judge model.

    If the judge finds none, VLMEvalKit guesses at random; here there is none.
    Source: `extract_answer_from_item` of multiple_choice.py.

    Args:
        response: response to a question with `question` and `choices`, by letter, in its metadata.
        judge: used if it is a model.

    Raises:
        MGMError: the judge does not reply.
    """
    choices = dict(response.question.metadata["choices"])
    text = as_stored(response.text)
    letter = _infer_letter(text, choices)
    if letter is not None or not judge.is_model:
        return letter
    return letter_of_judge(
        response.question, text, judge, lambda reply, _: _infer_letter(reply, choices)
    )


def letter_of_judge(
    question: Question,
    text: str,
    judge: Judge,
    rule: Callable[[str, Mapping[str, str]], str | None],
) -> str | None:
    """Let a judge model find the letter of a response; None: none after all attempts.

    Args:
        question: question with `question` and `choices`, by letter, in its metadata.
        text: the response.
        judge: a model.
        rule: extracts the letter from a reply.

    Raises:
        MGMError: the judge does not reply.
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


def infer_letter(text: str, choices: Mapping[str, str]) -> str | None:
    """The letter in a response, or of the choice that it contains; None: neither.

    Source: `can_infer` of matching_util.py.
    """
    return _infer_letter(text, dict(choices))


def _infer_letter(response: str, choices: dict[str, str]) -> str | None:
    """The letter of `infer_letter`; may change `choices` to lower case.

    Compat: matching by text changes `choices` in place, so that later attempts compare lengths in
    lower case, which differ for letters like İ (`can_infer_text`).
    """
    letter = _stated_letter(response, choices)
    if letter is not None:
        return letter
    if len(response.lower()) > 2 * sum(map(len, choices.values())):
        return None
    choices.update({name: choice.lower() for name, choice in choices.items()})
    return contained_choice(response, choices)


def _stated_letter(text: str, choices: Mapping[str, str]) -> str | None:
    """The letter in a response. Source: `can_infer_option` of matching_util.py."""
    if FAILED in text:
        return None
    if any(refusal in text for refusal in REFUSALS):
        return REFUSAL_LETTER
    words = text.translate(PUNCTUATION_TO_BLANKS).split()
    stated = [letter for letter in choices if letter in words]
    if len(stated) == 1 and words.index(stated[0]) > len(words) - NEAR_THE_END:
        return stated[0]
    if not stated and REFUSAL_LETTER in words:
        return REFUSAL_LETTER
    # Compat: the article in "the answer is a cat" counts as the letter A.
    match = _ANSWER_IS.search(text)
    return match[1].upper() if match and match[1].upper() in choices else None


def choice_judge_prompt(question: str, choices: Mapping[str, str], text: str) -> str:
    """The judge's prompt: the task is that of both harnesses, the wording is ours."""
    return (
        "A question has several choices, and somebody has answered it in their own words. Say "
        "which choice the answer means.\n"
        "Reply with the choice's letter and nothing else; reply Z if the answer means none of "
        "them, or several.\n\n"
        f"Question: {question}\nChoices:\n{format_choices(choices)}\n"
        f"Answer: {text}\nLetter:"
    )
