"""Prompts in one row: each sees its own positions, as if it stood alone."""

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mgm.engine.kv_cache.attention_masks import FULL, SLIDING, AttentionMasks, Branches
from mgm.engine.scheduler.shared_prefix import PromptTree

WINDOW = 5


def generation(names: list[int]) -> Any:
    return SimpleNamespace(names=np.array(names))


def drawn(draw: random.Random) -> tuple[list[list[int]], int]:
    """Prompts that begin alike, and how much of that is known."""
    beginning = [draw.randrange(9) for _ in range(draw.randint(40, 50))]
    prompts = [
        beginning + [draw.randrange(9) for _ in range(draw.randint(0, 4))]
        for _ in range(draw.randint(1, 5))
    ]
    return prompts, draw.randint(0, 3)


def tree_of(prompts: list[list[int]], known: int) -> PromptTree:
    tree = PromptTree.of(generation(prompts[0]), known)
    for names in prompts[1:]:
        joined = tree.joined_by(generation(names), known)
        assert joined is not None
        tree = joined
    return tree


@pytest.mark.parametrize("seed", range(20))
def test_a_row_holds_every_prompt(seed):
    prompts, known = drawn(random.Random(seed))
    tree = tree_of(prompts, known)
    assert {tuple(names[: tree.shared]) for names in prompts} == {tuple(prompts[0][: tree.shared])}
    tokens = list(tree.tokens())
    assert len(tokens) == tree.length
    assert tree.width == known + tree.length
    for number, (names, columns) in enumerate(zip(prompts, tree.branches, strict=True), start=1):
        assert len(columns) >= 1  # the last token of each is read for itself
        own = [tokens[column - known] for column in columns]
        assert own == [(number, position) for position in range(tree.shared, len(names))]
    assert tokens[: tree.shared - known] == [(0, place) for place in range(known, tree.shared)]


def test_a_prompt_joins_if_most_of_what_is_new_is_there():
    tree = PromptTree.of(generation([1, 2, 3, 4, 5, 6, 7, 8]), 2)
    joined = tree.joined_by(generation([1, 2, 3, 4, 5, 6, 9, 9, 9]), 2)
    assert joined is not None
    assert joined.shared == 6
    assert tree.joined_by(generation([1, 2, 3, 4, 9, 9, 9, 9]), 2) is None  # only two of six
    assert tree.joined_by(generation([1, 2, 3, 4, 5, 6, 7]), 3) is None  # more of it is known
    # Two more would have to read [5, 6] for themselves: nothing is saved.
    for names in ([1, 2, 3, 4, 5, 6, 9], [1, 2, 3, 4, 5, 6, 8]):
        assert joined is not None
        joined = joined.joined_by(generation(names), 2)
    assert joined is not None
    assert joined.joined_by(generation([1, 2, 3, 4, 7]), 2) is None
    same = tree.joined_by(generation([1, 2, 3, 4, 5, 6, 7, 8]), 2)
    assert same is not None
    assert [len(columns) for columns in same.branches] == [1, 1]


@pytest.mark.parametrize("seed", range(10))
def test_a_token_sees_its_own_prompt_and_no_more(seed):
    draw = random.Random(seed)
    prompts, known = drawn(draw)
    tree = tree_of(prompts, known)
    filling = draw.randint(0, 4)  # what another row has more of
    places = [tree.width + place for place in range(filling)] + list(range(known, tree.width))
    tokens = [(0, 0)] * filling + list(tree.tokens())
    numbers, positions = torch.tensor([tokens]).unbind(-1)
    text = SimpleNamespace(
        layer_types=[FULL, SLIDING], sliding_window=WINDOW, use_sliding_window=True
    )
    language_model = SimpleNamespace(config=SimpleNamespace(_attn_implementation="sdpa"))
    model: Any = SimpleNamespace(
        config=SimpleNamespace(text_config=text), language_model=language_model
    )
    branches = Branches(numbers, positions)
    masks = AttentionMasks(model).of(torch.tensor([places]), tree.width + filling + 3, branches)
    names = [*prompts[0][:known], *(prompts[max(b - 1, 0)][p] for b, p in tree.tokens())]
    for number, (branch, position) in enumerate(tokens):
        assert masks[FULL][0, 0, number].any()
        if number < filling:
            continue
        own = prompts[max(branch - 1, 0)][: position + 1]
        for kind, expected in ((FULL, own), (SLIDING, own[-WINDOW:])):
            seen = masks[kind][0, 0, number].nonzero().flatten().tolist()
            assert [names[column] for column in seen] == expected
