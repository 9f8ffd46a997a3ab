"""Attention guides: targets that supervise some attention heads of the nano language model.

To answer a question about an image, attention has to locate in the cells the words that the
question mentions, carry their positions to the start of the answer, locate an intermediate clue
(such as the highest value, when its label is asked for), and point to the cell of the next
character. Without supervision a small model learns this very late, since no single step lowers the
loss without the others (compare Liu et al. 2016, "Neural machine translation with supervised
attention").
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
from playground.pretraining.targets import SIDE, THING_IDS, frame_transform
from playground.pretraining.word_positions import unique_words
from playground.sample import Sample
from playground.tokenizer import SPACE

# (layer, head). The first layer is left to combine characters into words, the last one to convert
# the attended cell into an output character.
FIND_WORD, FIND_THING = (1, 0), (1, 1)
ASK_FIRST, ASK_LAST = (2, 0), (2, 1)  # first and last cell position mentioned in the question
FIND_CLUE = (3, 0)
READ = (4, 0)
HEADS = (FIND_WORD, FIND_THING, ASK_FIRST, ASK_LAST, FIND_CLUE, READ)
MARKS = '"?.,:;!'  # punctuation around words
COUNTED = ("row", "column")  # words followed by a number


@dataclass(frozen=True)
class Guide:
    """Attention target of one head at one token.

    Attributes:
        head: one of `HEADS`.
        query: position of the token.
        keys: positions that it should attend to.
    """

    head: tuple[int, int]
    query: int
    keys: tuple[int, ...]


@dataclass(frozen=True)
class _Word:
    """A word of the input: its text and token positions, without punctuation and space."""

    text: str
    positions: tuple[int, ...]


class Guides:
    """Computes the guides of a conversation about a drawn sample."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self.special = set(tokenizer.all_special_ids)

    def find(
        self, sample: Sample, ids: list[int], labels: list[int], clues: Sequence[str | None] = ()
    ) -> list[Guide]:
        """Compute all guides of a tokenised conversation.

        Args:
            sample: the drawn sample; each of its images has 144 positions in `ids`.
            ids: token ids.
            labels: training labels of the ids.
            clues: clue of each answer, in order; may be shorter or longer than the answers.
        """
        image_starts = [i for i, token in enumerate(ids) if token == len(self.tokens)]
        image_starts = image_starts[:: SIDE * SIDE]
        words, things = _drawn_words(sample, image_starts), _drawn_things(sample, image_starts)
        guides, last = [], ""
        for word in self._words(ids, max(image_starts, default=0)):
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
                # The preceding token predicts this one.
                for position, key in zip(word.positions, cells, strict=False):
                    guides.append(Guide(READ, position - 1, (key,)))
            elif thing and len(thing) == 1:
                for before in (1, 2) if colored else (1,):
                    guides.append(Guide(READ, word.positions[0] - before, thing))
            last = word.text
        answers = [i for i in range(1, len(labels)) if labels[i - 1] == IGNORE_INDEX != labels[i]]
        lookups = _lookup_positions(guides, answers, len(ids))
        guides += _to_answers(guides, lookups)
        for start, clue in zip(answers, clues, strict=False):
            if keys := tuple(dict.fromkeys(words.get(clue or "", ()))):
                guides += [Guide(FIND_CLUE, query, keys) for query in lookups[start]]
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


def _to_answers(guides: list[Guide], lookups: dict[int, tuple[int, ...]]) -> list[Guide]:
    """Build guides from the lookup positions of answers to the guided words of their questions."""
    by_answer: dict[int, list[Guide]] = {}
    for guide in guides:
        if guide.head in (FIND_WORD, FIND_THING):
            start = next((start for start in lookups if start > guide.query), None)
            if start is not None:
                by_answer.setdefault(start, []).append(guide)
    to_answers = []
    for start, candidates in by_answer.items():
        # "Which bar has the value 9?" is about the 9; "bar" matches every bar.
        words = [guide for guide in candidates if guide.head == FIND_WORD]
        ordered = sorted(words or candidates, key=lambda guide: guide.keys[0])
        for head, guide in ((ASK_FIRST, ordered[0]), (ASK_LAST, ordered[-1])):
            to_answers += [Guide(head, query, (guide.query,)) for query in lookups[start]]
    return to_answers


def _lookup_positions(
    guides: list[Guide], answers: list[int], end: int
) -> dict[int, tuple[int, ...]]:
    """Lookup positions of each answer, by the position of its first token.

    They are the positions that predict its first two tokens and, in a sentence, the first word that
    is read from the image.
    """
    reads = [guide.query for guide in guides if guide.head == READ]
    lookups = {}
    for start, after in pairwise([*answers, end]):
        read = [query for query in reads if start <= query + 1 < after]
        lookups[start] = tuple(dict.fromkeys((start - 1, start, *read[:1])))
    return lookups


def _stripped(run: list[tuple[str, int]]) -> Iterator[_Word]:
    while run and run[0][0] in MARKS:
        run = run[1:]
    while run and run[-1][0] in MARKS:
        run = run[:-1]
    if run:
        yield _Word("".join(text for text, _ in run), tuple(position for _, position in run))


def _drawn_words(sample: Sample, image_starts: list[int]) -> dict[str, tuple[int, ...]]:
    """Cell position of every character by word, for words that occur once."""
    by_text: dict[str, list[tuple[int, ...]]] = {}
    for index, start in enumerate(image_starts):
        for word in unique_words(sample, index):
            cells = tuple(start + row * SIDE + column for row, column in word.cells)
            for text in {word.text, word.text.lower()}:  # questions say "age" for the header "Age"
                by_text.setdefault(text, []).append(cells)
    return {text: cells[0] for text, cells in by_text.items() if len(cells) == 1}


def _drawn_things(sample: Sample, image_starts: list[int]) -> dict[str, tuple[int, ...]]:
    """Cell positions of the centres of objects, by name with and without colour."""
    by_name: dict[str, tuple[int, ...]] = {}
    for index, start in enumerate(image_starts):
        frame = frame_transform(sample.images[index])
        for thing in sample.objects[index]:
            if thing.label in THING_IDS:
                row, column = frame.cell((thing.x0 + thing.x1) / 2, (thing.y0 + thing.y1) / 2)
                position = start + row * SIDE + column
                for name in (thing.label, plural(thing.label)):
                    for text in (name, f"{thing.color} {name}"):
                        by_name[text] = (*by_name.get(text, ()), position)
    return by_name


def collate_guides(guides: list[list[Guide]]) -> dict[str, Tensor]:
    """Collate guides: (guides, 3) of row, head and query; (keys, 2) of guide and key."""
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
    """Negative log of the attention mass on the guides' keys: mean per head, then over heads.

    Args:
        attention: (batch, queries, keys) of each of `HEADS`.
        guides, keys: output of `collate_guides`.
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
