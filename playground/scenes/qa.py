"""Question-answer pairs of scenes, and conversations sampled from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from playground.sample import Turn

ORDINALS = ("first", "second", "third")
SHORT_SUFFIX = "\nAnswer the question using a single word or phrase."
TURNS = (3, 8)  # minimum and maximum number of turns of a conversation
SHORT_SHARE = 0.75  # share of conversations with short answers
BRITISH_SHARE = 0.15  # share of questions with the spelling "colour"
DESCRIBE_SHARE = 0.2  # share of full-sentence conversations about a simple scene with a description
LONGEST_DESCRIPTION = 90  # characters
READING_WEIGHT = 2.5  # sampling weight of a question that requires reading; others: 1
DESCRIBE = (
    "Describe the image.",
    "What does the image show?",
    "Give a short description of the image.",
    "What do you see in the image?",
)
DESCRIBE_BOTH = (
    "Describe the images.",
    "What do the images show?",
    "Give a short description of the images.",
    "What do you see in the images?",
)


@dataclass(frozen=True)
class QAPair:
    """A question about a scene with its answer.

    Attributes:
        kind: kind of question, as in "price".
        questions: paraphrases with the same answer.
        short: answer in a word or phrase.
        sentence: answer as a full sentence.
        reads: keys of the drawn texts that the answer requires reading; see `Canvas.text`.
        needs_image: whether the caption does not contain the answer.
        clue: see `Turn`.
    """

    kind: str
    questions: tuple[str, ...]
    short: str
    sentence: str
    reads: tuple[str, ...] = ()
    needs_image: bool = False
    clue: str | None = None


def conversation(
    qa_pairs: Sequence[QAPair],
    scene: str,
    caption: str,
    heights: Mapping[str, float],
    rng: Random,
    turns: tuple[int, int] = TURNS,
) -> list[Turn]:
    """Sample a conversation: some of the questions in random order, answers all in one form.

    Args:
        qa_pairs: candidates.
        scene: kind of the scene, the prefix of the turns' kinds.
        caption: answer to a request for a description, if it is short enough.
        heights: cap heights of the drawn texts by key.
        rng: source of random numbers.
        turns: minimum and maximum number of questions.
    """
    chosen = _choose(qa_pairs, rng.randint(*turns), rng)
    short = rng.random() < SHORT_SHARE
    if not short and len(caption) <= LONGEST_DESCRIPTION and rng.random() < DESCRIBE_SHARE:
        questions = DESCRIBE_BOTH if scene == "comparison" else DESCRIBE
        chosen[-1] = QAPair("describe", questions, caption, caption, tuple(heights))
        rng.shuffle(chosen)
    selected = []
    for pair in chosen:
        question = rng.choice(pair.questions)
        if rng.random() < BRITISH_SHARE:
            question = question.replace("color", "colour")
        read = [heights[key] for key in pair.reads if key in heights]
        selected.append(
            Turn(
                # As in the published data, only the first question has the suffix.
                question=question + (SHORT_SUFFIX if short and not selected else ""),
                answer=pair.short if short else pair.sentence,
                kind=f"{scene}/{pair.kind}",
                text_height=min(read) if read else None,
                clue=pair.clue,
            )
        )
    return selected


def _choose(qa_pairs: Sequence[QAPair], count: int, rng: Random) -> list[QAPair]:
    # Reading is the hardest skill to learn, so questions that require it have a higher weight.
    ranked = sorted(
        qa_pairs, key=lambda pair: rng.random() ** (1 / READING_WEIGHT if pair.reads else 1)
    )
    return rng.sample(ranked[-count:], min(count, len(ranked)))


def yes_no_question(
    kind: str,
    questions: tuple[str, ...],
    truth: bool,
    yes: str,
    no: str,
    reads: tuple[str, ...] = (),
) -> QAPair:
    """Make a yes-no question; `yes` and `no` are the answers as sentences."""
    return QAPair(kind, questions, "Yes" if truth else "No", yes if truth else no, reads)


def count_question(kind: str, many: str, count: int, sentence: str) -> QAPair:
    """Make a counting question; `many` is the plural of the counted objects."""
    questions = (
        f"How many {many} are there?",
        f"How many {many} do you see?",
        f"How many {many} are in the image?",
    )
    return QAPair(kind, questions, str(count), sentence)
