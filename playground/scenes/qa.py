"""From what is asked to a turn: one wording for bare answers, one for full sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from playground.sample import Turn

ORDINALS = ("first", "second", "third")
SHORT_SUFFIX = "\nAnswer the question using a single word or phrase."
TURNS = (3, 8)  # of a conversation
SHORT_SHARE = 0.75  # of the conversations
BRITISH_SHARE = 0.15  # of the questions say "colour"
DESCRIBE_SHARE = 0.2  # of the conversations in full sentences about a simple scene
LONGEST_DESCRIPTION = 90  # characters
READING_WEIGHT = 2.5  # of a question that needs reading, to 1 of another
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
class Ask:
    """A question about a scene's spec.

    Attributes:
        kind: what is asked, as in "price".
        questions: paraphrases; the answer is the same for all.
        short: the bare answer.
        sentence: the answer as a full sentence.
        reads: keys of the drawn texts one must read; see `Canvas.text`.
        needs_picture: the scene's sentences do not tell it.
        clue: as in `Turn`.
    """

    kind: str
    questions: tuple[str, ...]
    short: str
    sentence: str
    reads: tuple[str, ...] = ()
    needs_picture: bool = False
    clue: str | None = None


def conversation(
    asks: Sequence[Ask],
    scene: str,
    caption: str,
    heights: Mapping[str, float],
    rng: Random,
    turns: tuple[int, int] = TURNS,
) -> list[Turn]:
    """Choose some of the questions, in random order, all answered in one form.

    Args:
        scene: kind of the scene, the first part of the turns' kind.
        caption: the answer where a description is asked for, if it is short enough.
        heights: cap heights of the drawn texts by key.
        turns: minimum and maximum number of questions.
    """
    chosen = _choose(asks, rng.randint(*turns), rng)
    short = rng.random() < SHORT_SHARE
    if not short and len(caption) <= LONGEST_DESCRIPTION and rng.random() < DESCRIBE_SHARE:
        questions = DESCRIBE_BOTH if scene == "comparison" else DESCRIBE
        chosen[-1] = Ask("describe", questions, caption, caption, tuple(heights))
        rng.shuffle(chosen)
    selected = []
    for ask in chosen:
        question = rng.choice(ask.questions)
        if rng.random() < BRITISH_SHARE:
            question = question.replace("color", "colour")
        read = [heights[key] for key in ask.reads if key in heights]
        selected.append(
            Turn(
                # As in the published mix, the wish for a bare answer is said once.
                question=question + (SHORT_SUFFIX if short and not selected else ""),
                answer=ask.short if short else ask.sentence,
                kind=f"{scene}/{ask.kind}",
                text_height=min(read) if read else None,
                clue=ask.clue,
            )
        )
    return selected


def _choose(asks: Sequence[Ask], count: int, rng: Random) -> list[Ask]:
    # Reading is the hard part to learn, so what must be read is asked more often.
    ranked = sorted(asks, key=lambda ask: rng.random() ** (1 / READING_WEIGHT if ask.reads else 1))
    return rng.sample(ranked[-count:], min(count, len(ranked)))


def yes_no(
    kind: str,
    questions: tuple[str, ...],
    truth: bool,
    yes: str,
    no: str,
    reads: tuple[str, ...] = (),
) -> Ask:
    """A question answered "Yes" or "No"; `yes` and `no` are the sentences that say so."""
    return Ask(kind, questions, "Yes" if truth else "No", yes if truth else no, reads)


def ask_count(kind: str, many: str, count: int, sentence: str) -> Ask:
    """How many of something there are; `many` is its plural."""
    questions = (
        f"How many {many} are there?",
        f"How many {many} do you see?",
        f"How many {many} are in the image?",
    )
    return Ask(kind, questions, str(count), sentence)
