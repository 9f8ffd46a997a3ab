"""Where attention should go: guides for the pre-training of the nano language model.

To answer from a picture, attention has to find in the cells what a question names, to take that to
where the answer begins, to find what leads on from there ("the highest" is a number, asked for is
its name), and to point at the cell that the next character is read from. Left alone, a small model
discovers this very late, for no step pays before the others are there; so some heads are taught
(compare Liu et al. 2016, "Neural machine translation with supervised attention").
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from mgm.model.labels import IGNORE_INDEX
from playground.colors import COLORS
from playground.emoji import plural
from playground.pretraining.targets import SIDE, THING_IDS, placement
from playground.pretraining.word_positions import words_on
from playground.sample import Sample
from playground.tokenizer import SPACE

# Layer and head. The first layer puts the characters of words together, the last one turns what was
# read into a character.
FIND_WORD, FIND_THING = (1, 0), (1, 1)
ASK_FIRST, ASK_LAST = (2, 0), (2, 1)  # of what the question names, the first and last in the cells
FIND_CLUE = (3, 0)
READ = (4, 0)
HEADS = (FIND_WORD, FIND_THING, ASK_FIRST, ASK_LAST, FIND_CLUE, READ)
MARKS = '"?.,:;!'  # around words
COUNTED = ("row", "column")  # followed by the number of a position


@dataclass(frozen=True)
class Guide:
    """The attention of one head at one token.

    Attributes:
        head: one of `HEADS`.
        query: position of the token.
        keys: positions on which its attention should be.
    """

    head: tuple[int, int]
    query: int
    keys: tuple[int, ...]


@dataclass(frozen=True)
class _Word:
    """A word in the ids: its text and the positions of its tokens, without marks and space."""

    text: str
    positions: tuple[int, ...]


class Guides:
    """Finds the guides of a conversation about a drawn sample."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self.special = set(tokenizer.all_special_ids)

    def find(
        self, sample: Sample, ids: list[int], labels: list[int], clues: Sequence[str | None] = ()
    ) -> list[Guide]:
        """All guides for `ids`, whose images are those of `sample`, each 144 positions.

        Args:
            clues: of the answers, in order; there may be more of them, or none.
        """
        begins = [i for i, token in enumerate(ids) if token == len(self.tokens)]
        begins = begins[:: SIDE * SIDE]
        words, things = _drawn_words(sample, begins), _drawn_things(sample, begins)
        guides, last = [], ""
        for word in self._words(ids, max(begins, default=0)):
            colored = last in COLORS
            cells = words.get(word.text)
            thing = things.get(f"{last} {word.text}" if colored else word.text)
            if labels[word.positions[0]] == IGNORE_INDEX:
                if cells:
                    keys = tuple(dict.fromkeys(cells))
                    guides.append(Guide(FIND_WORD, word.positions[-1], keys))
                if thing:
                    guides.append(Guide(FIND_THING, word.positions[-1], thing))
            elif cells and len(word.text) > 1 and last not in COUNTED:
                # The token before is the one that predicts.
                for position, key in zip(word.positions, cells, strict=False):
                    guides.append(Guide(READ, position - 1, (key,)))
            elif thing and len(thing) == 1:
                for before in (1, 2) if colored else (1,):
                    guides.append(Guide(READ, word.positions[0] - before, thing))
            last = word.text
        answers = [i for i in range(1, len(labels)) if labels[i - 1] == IGNORE_INDEX != labels[i]]
        looks = _looks(guides, answers, len(ids))
        guides += _to_answers(guides, looks)
        for start, clue in zip(answers, clues, strict=False):
            if keys := tuple(dict.fromkeys(words.get(clue or "", ()))):
                guides += [Guide(FIND_CLUE, query, keys) for query in looks[start]]
        return guides

    def _words(self, ids: list[int], start: int) -> Iterator[_Word]:
        run: list[tuple[str, int]] = []
        for position in range(start, len(ids) + 1):
            ends = position == len(ids) or ids[position] >= len(self.tokens)
            token = "" if ends or ids[position] in self.special else self.tokens[ids[position]]
            if not token or token == "\n" or token.startswith(SPACE):
                yield from _stripped(run)
                run = []
            if token and token not in ("\n", SPACE):
                run.append((token.removeprefix(SPACE), position))


def _to_answers(guides: list[Guide], looks: dict[int, tuple[int, ...]]) -> list[Guide]:
    """From where answers look to the guides of their questions."""
    by_answer: dict[int, list[Guide]] = {}
    for guide in guides:
        if guide.head in (FIND_WORD, FIND_THING):
            start = next((start for start in looks if start > guide.query), None)
            if start is not None:
                by_answer.setdefault(start, []).append(guide)
    to_answers = []
    for start, candidates in by_answer.items():
        # "Which bar has the value 9?" names the 9; "bar" is every bar.
        words = [guide for guide in candidates if guide.head == FIND_WORD]
        ordered = sorted(words or candidates, key=lambda guide: guide.keys[0])
        for head, guide in ((ASK_FIRST, ordered[0]), (ASK_LAST, ordered[-1])):
            to_answers += [Guide(head, query, (guide.query,)) for query in looks[start]]
    return to_answers


def _looks(guides: list[Guide], answers: list[int], end: int) -> dict[int, tuple[int, ...]]:
    """Where each answer looks for what leads to it, by its first token: before its first two tokens
    and, in a sentence, before the first word that is read."""
    reads = [guide.query for guide in guides if guide.head == READ]
    looks = {}
    for start, after in pairwise([*answers, end]):
        read = [query for query in reads if start <= query + 1 < after]
        looks[start] = tuple(dict.fromkeys((start - 1, start, *read[:1])))
    return looks


def _stripped(run: list[tuple[str, int]]) -> Iterator[_Word]:
    while run and run[0][0] in MARKS:
        run = run[1:]
    while run and run[-1][0] in MARKS:
        run = run[:-1]
    if run:
        yield _Word("".join(text for text, _ in run), tuple(position for _, position in run))


def _drawn_words(sample: Sample, begins: list[int]) -> dict[str, tuple[int, ...]]:
    """Position of the cell of every character, by word; words that stand twice are left out."""
    by_text: dict[str, list[tuple[int, ...]]] = {}
    for index, begin in enumerate(begins):
        for word in words_on(sample, index):
            cells = tuple(begin + row * SIDE + column for row, column in word.cells)
            for text in {word.text, word.text.lower()}:  # a header "Age" is asked for as "age"
                by_text.setdefault(text, []).append(cells)
    return {text: cells[0] for text, cells in by_text.items() if len(cells) == 1}


def _drawn_things(sample: Sample, begins: list[int]) -> dict[str, tuple[int, ...]]:
    """Positions of the cells where things have their middle, by name with and without colour."""
    by_name: dict[str, tuple[int, ...]] = {}
    for index, begin in enumerate(begins):
        frame = placement(sample.images[index])
        for thing in sample.objects[index]:
            if thing.label in THING_IDS:
                row, column = frame.cell((thing.x0 + thing.x1) / 2, (thing.y0 + thing.y1) / 2)
                position = begin + row * SIDE + column
                for name in (thing.label, plural(thing.label)):
                    for text in (name, f"{thing.color} {name}"):
                        by_name[text] = (*by_name.get(text, ()), position)
    return by_name


def collate_guides(guides: list[list[Guide]]) -> dict[str, Tensor]:
    """The guides of a batch: (guides, 3) of row, head and query; (keys, 2) of guide and key."""
    each = [
        (row, HEADS.index(guide.head), guide.query)
        for row, row_guides in enumerate(guides)
        for guide in row_guides
    ]
    keys = [guide.keys for row_guides in guides for guide in row_guides]
    pairs = [(number, key) for number, among in enumerate(keys) for key in among]
    return {
        "guides": torch.tensor(each, dtype=torch.long).view(-1, 3),
        "guide_keys": torch.tensor(pairs, dtype=torch.long).view(-1, 2),
    }


def guide_loss(attention: list[Tensor], guides: Tensor, keys: Tensor) -> Tensor:
    """Minus the logarithm of the attention that goes where it should: the mean over heads of means.

    Args:
        attention: of each of `HEADS`, (batch, queries, keys).
        guides, keys: of `collate_guides`.
    """
    losses = []
    for head, weights in enumerate(attention):
        own = (guides[:, 1] == head).nonzero().squeeze(1)
        number = torch.full((len(guides),), -1).scatter(0, own, torch.arange(len(own)))
        pairs = keys[number[keys[:, 0]] >= 0]
        rows, _, queries = guides[pairs[:, 0]].unbind(1)
        there = weights[rows, queries, pairs[:, 1]].float()
        sums = torch.zeros(len(own)).index_add(0, number[pairs[:, 0]], there)
        if len(own):
            losses.append(-(sums + 1e-4).log().mean())
    return torch.stack(losses).mean() if losses else attention[0].new_zeros(())
