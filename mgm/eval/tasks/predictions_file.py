"""Answers that another program has written: whose they are, and what is wrong with them."""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgm.errors import MGMError
from mgm.eval.harness.question import Answered, Question
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT, Benchmark
from mgm.eval.tasks.prediction_records import Prediction, read_predictions, same_wording
from mgm.eval.tasks.prompts import bare_question, letters_of

logger = logging.getLogger("mgm.eval")
SHOWN = 3  # names that a message tells


@dataclass
class Found:
    """What a file holds.

    Attributes:
        answered: questions with their answers, in the benchmark's order.
        unknown: names that no question has.
        twice: names of questions that the same was said to several times; it counts once.
        contradictory: names of questions that different things were said to; none counts.
        missing: questions that nothing was said to.
        ambiguous: names that several questions have, where nothing tells which of them is meant.
        mismatched: where the file has another question beside an answer than the benchmark has
            under its name.
        unreadable: records without a name or an answer.
        empty: questions whose answer is null or empty; they are scored.
    """

    answered: list[Answered] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    contradictory: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def tell(self, path: Path) -> None:
        """Log what is wrong."""
        for names, what in (
            (self.unreadable, "records cannot be read; they are left"),
            (self.unknown, "answers to questions that the benchmark does not have; they are left"),
            (
                self.mismatched,
                "answers are to other questions than their names say; they are left",
            ),
            (self.ambiguous, "answers whose names several questions have; they are left"),
            (self.twice, "questions are answered twice, and the same; it counts once"),
            (self.contradictory, "questions are answered twice, and differently; none counts"),
            (self.empty, "questions have an empty answer, which is scored"),
            (self.missing, "questions have no answer; the score is partial"),
        ):
            if names:
                more = ", …" if len(names) > SHOWN else ""
                shown = ", ".join(map(repr, names[:SHOWN]))
                logger.warning("%s: %d %s (%s%s)", path, len(names), what, shown, more)


def read_answers(
    path: Path, benchmark: Benchmark, questions: Sequence[Question], protocol: str = ""
) -> Found:
    """Find the answers of questions in a file.

    An answer of VLMEvalKit or lmms-eval belongs to the row of its index, where the questions are
    from that harness's data, and else to the question of its name. What the file has of the
    question's text has to agree. Where several questions have one name in published files, the
    prompt tells them apart if it stands beside the answer, and else their order, if each has one.

    Args:
        path: JSON lines, JSON, a spreadsheet, or a table separated by tabs or commas.
        benchmark: that was asked.
        questions: all of it.
        protocol: by which they are asked; no message advises the one that is given.

    Raises:
        MGMError: the file is missing or no such file, no answer in it is to a question, or most are
            to other questions.
    """
    predictions, unreadable = read_predictions(path)
    found = Found(unreadable=unreadable)
    known = _by_name(benchmark, questions)
    said: dict[int, list[str]] = defaultdict(list)
    shared: dict[tuple[int, ...], list[Prediction]] = defaultdict(list)
    wrong: list[tuple[Prediction, Question]] = []
    for one in predictions:
        own = _questions_of(one, known, questions)
        fitting = [n for n in own if same_wording(one, questions[n])]
        prompted = [n for n in fitting if _is_prompt(one.prompt, questions[n])]
        if not own:
            found.unknown.append(one.name)
        elif not fitting:
            found.mismatched.append(one.name)
            wrong.append((one, questions[own[0]]))
        else:
            shared[tuple(prompted or fitting)].append(one)
    for own, answers in shared.items():
        if len(own) > 1 and len(answers) % len(own):
            found.ambiguous += [one.name for one in answers]
            continue
        for number, one in enumerate(answers):  # as often as the file goes through them
            said[own[number % len(own)]].append(one.text)
    harness = Counter(one.harness for one in predictions).most_common(1)
    advice = _advice(benchmark, harness[0][0] if harness else "", protocol)
    _check(path, benchmark, found, len(said), wrong, list(known), advice)
    _check_echoes(path, said, questions)
    for index, question in enumerate(questions):
        texts = said.get(index, [])
        if len(set(texts)) == 1:
            found.answered.append(Answered(question, texts[0]))
            found.twice += [question.id] * (len(texts) > 1)
            found.empty += [question.id] * (not texts[0])
        elif texts:
            found.contradictory.append(question.id)
        else:
            found.missing.append(question.id)
    return found


def _by_name(benchmark: Benchmark, questions: Sequence[Question]) -> dict[str, list[int]]:
    """The indexes of questions, by all that files of answers call them."""
    known: dict[str, list[int]] = defaultdict(list)
    for index, question in enumerate(questions):
        for name in benchmark.names_of(question):
            known[name].append(index)
        if question.source_index is not None:
            known[question.source_index].append(index)
    return known


def _questions_of(
    one: Prediction, known: Mapping[str, list[int]], questions: Sequence[Question]
) -> list[int]:
    """The questions that an answer may be to, by the surest of its names that there is."""
    for name in one.names:
        if name in known:
            return known[name]
    # A harness's own row, where the question can be compared: published files may have its order.
    row = one.row
    return [row] if row is not None and one.question and row < len(questions) else []


def _is_prompt(prompt: Any, question: Question) -> bool:
    return prompt is not None and prompt in (question.facts.get("prompt"), question.text)


def _check(
    path: Path,
    benchmark: Benchmark,
    found: Found,
    usable: int,
    wrong: Sequence[tuple[Prediction, Question]],
    known: Sequence[str],
    advice: str,
) -> None:
    """Raise what makes a file useless."""
    if len(wrong) > usable:
        one, question = wrong[0]
        raise MGMError(
            f"{path}: {len(wrong)} of its answers are to other questions than {benchmark.name} has "
            f"under their names: {one.name} is {one.question or one.prompt!r:.80} there and "
            f"{question.text!r:.80} here{advice}"
        )
    if usable:
        return
    if found.unreadable and not found.unknown + found.ambiguous:
        raise MGMError(f"{path}, {found.unreadable[0]}")
    if found.ambiguous:
        raise MGMError(
            f"{path}: {found.ambiguous[0]!r} is the name of several questions of {benchmark.name}, "
            f"and nothing in the file tells which{advice}"
        )
    raise MGMError(
        f"{path}: none of its {len(found.unknown)} answers is to a question of {benchmark.name} "
        f"(its names are such as {', '.join(map(repr, found.unknown[:SHOWN])) or 'none'}, the "
        f"benchmark's such as {', '.join(map(repr, known[:SHOWN]))}){advice}"
    )


def _check_echoes(
    path: Path, said: Mapping[int, Sequence[str]], questions: Sequence[Question]
) -> None:
    """Raise an MGMError if most answers are the questions themselves, as in a file of questions."""
    echoes = sum(
        any(_same_letters(text, questions[index].text) for text in texts)
        for index, texts in said.items()
    )
    if 2 * echoes > len(said):
        raise MGMError(
            f"{path}: {echoes} of its {len(said)} answers are the questions themselves; give the "
            "file with the model's answers"
        )


def _same_letters(one: str, other: str) -> bool:
    letters = letters_of(bare_question(one))
    return bool(letters) and letters == letters_of(bare_question(other))


def _advice(benchmark: Benchmark, harness: str, protocol: str) -> str:
    """Which protocol reads the data that a harness's indexes are of."""
    if harness == protocol:
        return ""
    if harness in (LMMS_EVAL, VLMEVALKIT) and harness in benchmark.protocols:
        return f"; its indexes are of {harness}'s data: give --protocol {harness}"
    return ""
