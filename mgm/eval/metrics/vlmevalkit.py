"""Questions with choices as VLMEvalKit asks and scores them, with or without a judge."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question
from mgm.eval.metrics.multiple_choice import LETTERS, listed, vlmevalkit_letter

NOTHING = ("nan", "none", "")  # what stands for no hint and no choice
TRIES = 3  # as often a judge is asked that names no letter


def choices_of(row: Mapping[str, Any], letters: str = LETTERS) -> list[str]:
    """The choices of a row, up to the first that is none."""
    found: list[str] = []
    for letter in letters:
        value = row.get(letter)
        if value is None or str(value).lower() in NOTHING:
            break
        found.append(str(value))
    return found


def choice_prompt(row: Mapping[str, Any], choices: Sequence[str]) -> str:
    """What is asked. Source: VLMEvalKit's image_mcq.py."""
    hint = str(row.get("hint") or "")
    begin = "" if hint.lower() in NOTHING else f"Hint: {hint}\n"
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


def choice_credit(answered: Answered, judge: Judge) -> float:
    """Whether the letter is right."""
    return float(meant_letter(answered, vlmevalkit_letter, judge) == answered.question.answer)


def meant_letter(
    answered: Answered, rule: Callable[[str, Sequence[str]], str | None], judge: Judge
) -> str | None:
    """The letter that an answer means, by a rule or, where that finds none, by a judge.

    Where both harnesses draw a letter, because the judge names none, the answer is wrong here.

    Args:
        answered: whose question has `question` and `choices` among its facts.
        rule: of the answer and the choices.
        judge: asked where it is a model.

    Returns:
        None: it means none.

    Raises:
        MGMError: the judge does not answer.
    """
    choices = answered.question.facts["choices"]
    letter = rule(answered.text, choices)
    if letter is not None or not judge.is_model:
        return letter
    prompt = judge_prompt(answered.question.facts["question"], choices, answered.text)
    for attempt in range(TRIES):
        letter = rule(judge.ask(prompt, temperature=attempt / 2, max_tokens=16), choices)
        if letter is not None:
            return letter
    return None


def judge_prompt(question: str, choices: Sequence[str], answer: str) -> str:
    """What a judge is asked: the task is that of both harnesses, the words are ours."""
    return (
        "A question has several choices, and somebody has answered it in their own words. Say "
        "which choice the answer means.\n"
        "Reply with the choice's letter and nothing else; reply Z if the answer means none of "
        "them, or several.\n\n"
        f"Question: {question}\nChoices:\n{listed(choices)}\n"
        f"Answer: {answer}\nLetter:"
    )
