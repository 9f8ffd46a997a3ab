"""Prompts with a common prefix in one row: each attends to its own positions only."""

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mgm.engine.kv_cache.attention_masks import FULL, SLIDING, AttentionMasks, Branches
from mgm.engine.scheduler.shared_prefix import PrefixGroup

WINDOW = 5


def sequence(token_keys: list[int]) -> Any:
    return SimpleNamespace(token_keys=np.array(token_keys))


def drawn(draw: random.Random) -> tuple[list[list[int]], int]:
    """Random prompts with a common prefix, and the length of the cached part."""
    beginning = [draw.randrange(9) for _ in range(draw.randint(40, 50))]
    prompts = [
        beginning + [draw.randrange(9) for _ in range(draw.randint(0, 4))]
        for _ in range(draw.randint(1, 5))
    ]
    return prompts, draw.randint(0, 3)


def group_of(prompts: list[list[int]], cached: int) -> PrefixGroup:
    group = PrefixGroup.of_one(sequence(prompts[0]), cached)
    for keys in prompts[1:]:
        larger = group.try_add(sequence(keys), cached)
        assert larger is not None
        group = larger
    return group


@pytest.mark.parametrize("seed", range(20))
def test_row_contains_every_prompt(seed):
    prompts, cached = drawn(random.Random(seed))
    group = group_of(prompts, cached)
    assert {tuple(keys[: group.prefix_length]) for keys in prompts} == {
        tuple(prompts[0][: group.prefix_length])
    }
    tokens = list(group.tokens())
    assert len(tokens) == group.num_tokens
    assert group.width == cached + group.num_tokens
    for number, (keys, columns) in enumerate(zip(prompts, group.suffixes, strict=True), start=1):
        assert len(columns) >= 1  # the last token of each prompt is always computed
        own = [tokens[column - cached] for column in columns]
        assert own == [(number, position) for position in range(group.prefix_length, len(keys))]
    assert tokens[: group.prefix_length - cached] == [
        (0, column) for column in range(cached, group.prefix_length)
    ]


def test_prompt_joins_if_the_shared_part_is_large():
    group = PrefixGroup.of_one(sequence([1, 2, 3, 4, 5, 6, 7, 8]), 2)
    larger = group.try_add(sequence([1, 2, 3, 4, 5, 6, 9, 9, 9]), 2)
    assert larger is not None
    assert larger.prefix_length == 6
    assert group.try_add(sequence([1, 2, 3, 4, 9, 9, 9, 9]), 2) is None  # only two of six tokens
    assert group.try_add(sequence([1, 2, 3, 4, 5, 6, 7]), 3) is None  # a longer prefix is cached
    # Two more would have to compute [5, 6] themselves: nothing is saved.
    for keys in ([1, 2, 3, 4, 5, 6, 9], [1, 2, 3, 4, 5, 6, 8]):
        assert larger is not None
        larger = larger.try_add(sequence(keys), 2)
    assert larger is not None
    assert larger.try_add(sequence([1, 2, 3, 4, 7]), 2) is None
    same = group.try_add(sequence([1, 2, 3, 4, 5, 6, 7, 8]), 2)
    assert same is not None
    assert [len(columns) for columns in same.suffixes] == [1, 1]


@pytest.mark.parametrize("seed", range(10))
def test_tokens_attend_to_their_own_prompt_only(seed):
    draw = random.Random(seed)
    prompts, cached = drawn(draw)
    group = group_of(prompts, cached)
    padding = draw.randint(0, 4)  # tokens of the longer row
    columns = [group.width + column for column in range(padding)] + list(range(cached, group.width))
    tokens = [(0, 0)] * padding + list(group.tokens())
    indices, positions = torch.tensor([tokens]).unbind(-1)
    text = SimpleNamespace(
        layer_types=[FULL, SLIDING], sliding_window=WINDOW, use_sliding_window=True
    )
    language_model = SimpleNamespace(config=SimpleNamespace(_attn_implementation="sdpa"))
    model: Any = SimpleNamespace(
        config=SimpleNamespace(text_config=text), language_model=language_model
    )
    branches = Branches(indices, positions)
    masks = AttentionMasks(model).build(
        torch.tensor([columns]), group.width + padding + 3, branches
    )
    keys = [*prompts[0][:cached], *(prompts[max(b - 1, 0)][p] for b, p in group.tokens())]
    for number, (branch, position) in enumerate(tokens):
        assert masks[FULL][0, 0, number].any()
        if number < padding:
            continue
        own = prompts[max(branch - 1, 0)][: position + 1]
        for kind, expected in ((FULL, own), (SLIDING, own[-WINDOW:])):
            seen = masks[kind][0, 0, number].nonzero().flatten().tolist()
            assert [keys[column] for column in seen] == expected
