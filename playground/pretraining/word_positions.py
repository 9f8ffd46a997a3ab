"""Questions about positions of words, for the pre-training of the nano language model.

To find an item by its price, a model must locate the price, follow its row and read the word at its
start. A question about a scene needs all three skills at once; these questions train them
separately.
"""

from collections import Counter
from dataclasses import dataclass
from random import Random

from playground.pretraining.targets import frame_transform
from playground.sample import Glyph, Sample

MAX_QUESTIONS = 16  # per image


@dataclass(frozen=True)
class Word:
    """A drawn word with its position in pixels of the frame.

    Attributes:
        cells: (row, column) of the cell of each character, from 0.
        x0, x1: left and right end.
        level: vertical centre of the capitals.
    """

    text: str
    cells: tuple[tuple[int, int], ...]
    x0: float
    x1: float
    level: float
    height: float

    @property
    def row(self) -> int:
        """Row of the first character's cell, from 1 at the top."""
        return self.cells[0][0] + 1

    @property
    def column(self) -> int:
        """Column of the first character's cell, from 1 at the left."""
        return self.cells[0][1] + 1


def unique_words(sample: Sample, index: int) -> list[Word]:
    """Words that occur exactly once in image `index`."""
    transform = frame_transform(sample.images[index])
    runs: list[list[Glyph]] = []
    for glyph in sample.glyphs[index]:
        if runs and glyph.follows:
            runs[-1].append(glyph)
        else:
            runs.append([glyph])
    words = [
        Word(
            "".join(glyph.char for glyph in run),
            tuple(transform.cell((glyph.x0 + glyph.x1) / 2, glyph.level) for glyph in run),
            transform.x(run[0].x0),
            transform.x(run[-1].x1),
            transform.y(run[0].level),
            max(glyph.y1 - glyph.y0 for glyph in run) * transform.scale,
        )
        for run in runs
    ]
    texts = [word.text for word in words]
    return [word for word in words if texts.count(word.text) == 1]


def position_questions(words: list[Word], rng: Random) -> list[tuple[str, str]]:
    """Sample questions and answers about positions of words, in random order."""
    turns = []
    starts = Counter(word.cells[0] for word in words)
    for word in words:
        position = f"row {word.row}, column {word.column}"
        turns.append((f'Where is "{word.text}"?', position))
        if starts[word.cells[0]] == 1:  # several small words may start in one cell
            turns.append((f"What is in {position}?", word.text))
        for side, other in _neighbours(word, words).items():
            turns.append((f'What is {side} "{word.text}"?', other.text))
    return rng.sample(turns, min(len(turns), MAX_QUESTIONS))


def _neighbours(word: Word, words: list[Word]) -> dict[str, Word]:
    neighbours = {}
    others = [other for other in words if other is not word]
    level = [o for o in others if abs(o.level - word.level) < 0.4 * max(o.height, word.height)]
    before = [other for other in level if other.x1 <= word.x0]
    after = [other for other in level if other.x0 >= word.x1]
    if before:
        neighbours["directly left of"] = max(before, key=lambda other: other.x1)
    if after:
        neighbours["directly right of"] = min(after, key=lambda other: other.x0)
    column = [o for o in others if min(o.x1, word.x1) > max(o.x0, word.x0) and o not in level]
    for side, beyond in (
        ("directly above", [other for other in column if other.level < word.level]),
        ("directly below", [other for other in column if other.level > word.level]),
    ):
        if beyond:
            nearest = min(beyond, key=lambda other: abs(other.level - word.level))
            # Two equally near words would make the question ambiguous.
            if sum(abs(o.level - nearest.level) < nearest.height for o in beyond) == 1:
                neighbours[side] = nearest
    return neighbours
