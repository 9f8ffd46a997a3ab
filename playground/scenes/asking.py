"""From what is asked to a turn: one wording for bare answers, one for full sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from playground.scenes.sample import Turn

SHORT_SUFFIX = "\nAnswer the question using a single word or phrase."
SHORT_SHARE = 0.75  # of the conversations


@dataclass(frozen=True)
class Ask:
    """A question about a scene's facts.

    Attributes:
        kind: what is asked, as in "price".
        questions: paraphrases; the answer is the same for all.
        short: the bare answer.
        sentence: the answer as a full sentence.
        reads: keys of the drawn texts one must read; see `Canvas.text`.
    """

    kind: str
    questions: tuple[str, ...]
    short: str
    sentence: str
    reads: tuple[str, ...] = ()


def conversation(
    asks: Sequence[Ask], scene: str, heights: Mapping[str, float], rng: Random
) -> list[Turn]:
    """Choose 2 to 6 of the questions, in random order, all answered in one form."""
    count = min(len(asks), rng.randint(2, 6))
    short = rng.random() < SHORT_SHARE
    turns = []
    for ask in rng.sample(asks, count):
        read = [heights[key] for key in ask.reads if key in heights]
        turns.append(
            Turn(
                question=rng.choice(ask.questions) + (SHORT_SUFFIX if short else ""),
                answer=ask.short if short else ask.sentence,
                kind=f"{scene}/{ask.kind}",
                text_height=min(read) if read else None,
            )
        )
    return turns


def yes_no(kind: str, questions: tuple[str, ...], truth: bool, yes: str, no: str,
           reads: tuple[str, ...] = ()) -> Ask:
    """A question answered "Yes" or "No"; `yes` and `no` are the sentences that say so."""
    return Ask(kind, questions, "Yes" if truth else "No", yes if truth else no, reads)
