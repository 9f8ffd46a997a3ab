import math

import pytest
import torch

from mgm.model.labels import IGNORE_INDEX
from playground.pretraining.cell_code import CELLS, cell_targets
from playground.pretraining.conversations import Conversations
from playground.pretraining.guides import (
    ASK_FIRST,
    ASK_LAST,
    FIND_CLUE,
    FIND_THING,
    FIND_WORD,
    HEADS,
    READ,
    Guide,
    Guides,
    collate_guides,
    guide_loss,
)
from playground.pretraining.targets import CHARACTER_ID, THING_IDS, dense_targets
from playground.scenes import draw_sample
from playground.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    words = ["What", "does", "the", "cost", "How", "many", "hearts", "are", "there", "red"]
    return build_tokenizer([*words, "heart", "Mar", "Is", "a", "in", "image"])


def guided(tokenizer, sample, turns, clues=()):
    """Attention targets by head: (query token, key cells of the first image)."""
    encoded = Conversations(tokenizer, 1, 0).encoded(turns, [])
    ids, labels = encoded["ids"], encoded["labels"]
    begin = ids.index(len(tokenizer))
    targets = Guides(tokenizer).find(sample, ids, labels, clues)
    for guide in targets:
        answers = guide.head not in (FIND_WORD, FIND_THING)
        assert (labels[guide.query + 1] != IGNORE_INDEX) == answers
    return {
        head: [
            (tokenizer.convert_ids_to_tokens(ids[guide.query]), [key - begin for key in guide.keys])
            for guide in targets
            if guide.head == head
        ]
        for head in HEADS
    }


def test_words_of_a_receipt(tokenizer):
    sample = draw_sample(4, "train", "receipt", turns=(30, 30))
    turn = next(t for t in sample.turns if t.kind == "receipt/price")
    question = turn.question.split("\n")[0]
    item = question.rstrip("?").removesuffix(" cost").split()[-1]
    cells = cell_targets(dense_targets(sample, 0))["characters"]
    guides = guided(tokenizer, sample, [("<image>\n" + question, turn.answer)])
    [(last, keys)] = guides[FIND_WORD]
    assert last == item[-1]
    assert CHARACTER_ID[item[0]] in cells[keys[0]]
    assert CHARACTER_ID[item[-1]] in cells[keys[-1]]
    assert len(guides[READ]) == len(turn.answer)
    for (_, [cell]), character in zip(guides[READ], turn.answer, strict=True):
        assert CHARACTER_ID[character] in cells[cell]
    assert len(guides[ASK_FIRST]) == len(guides[ASK_LAST]) == 2


def test_things_by_colour(tokenizer):
    seeds = range(200)
    samples = (draw_sample(seed, "train", "shapes") for seed in seeds)
    sample = next(s for s in samples if {t.label for t in s.objects[0]} >= {"heart", "star"})
    hearts = [thing for thing in sample.objects[0] if thing.label == "heart"]
    color = hearts[0].color
    middles = cell_targets(dense_targets(sample, 0))["middle_thing"]
    turns = [("<image>\nHow many hearts are there?", "1"), (f"Is there a {color} heart?", "Yes")]
    guides = guided(tokenizer, sample, turns)
    (_, every), (_, colored) = guides[FIND_THING]
    assert sorted(every) == [i for i in range(CELLS) if middles[i] == THING_IDS["heart"]]
    assert len(colored) == sum(thing.color == color for thing in hearts)
    assert set(colored) <= set(every)


def test_row_and_column_of_a_table(tokenizer):
    samples = (draw_sample(seed, "train", "table", turns=(30, 30)) for seed in range(40))
    sample, question, answer = next(
        (sample, turn.question.split("\n")[0], turn.answer)
        for sample in samples
        for turn in sample.turns
        if turn.kind == "table/cell" and turn.question.startswith("What is the value in")
    )
    guides = guided(tokenizer, sample, [("<image>\n" + question, answer)])
    words = question.rstrip("?").split()
    header, row = words[words.index("the", 4) + 1], words[-1]
    assert [last for last, _ in guides[FIND_WORD]] == [header[-1], row[-1]]
    # The header stands higher, so it comes first.
    (_, [at_header]), (_, [same]) = guides[ASK_FIRST]
    (_, [at_row]), _ = guides[ASK_LAST]
    assert at_header == same < at_row


def test_label_of_the_highest_value(tokenizer):
    sample = draw_sample(3, "train", "bar_chart", turns=(30, 30))
    turns = {turn.kind: turn for turn in sample.turns}
    highest, value = turns["bar_chart/highest"], turns["bar_chart/highest value"]
    assert highest.clue in value.answer
    question = "<image>\n" + highest.question.split("\n")[0]
    guides = guided(tokenizer, sample, [(question, highest.answer)], [highest.clue])
    (_, clue), (_, same) = guides[FIND_CLUE]
    assert clue == same
    cells = cell_targets(dense_targets(sample, 0))["characters"]
    assert CHARACTER_ID[highest.clue[0]] in cells[clue[0]]
    # It is to be found where the first character of the answer is predicted.
    assert guides[FIND_CLUE][-1][0] == guides[READ][0][0]
    assert not guided(tokenizer, sample, [(question, highest.answer)])[FIND_CLUE]


def test_answer_within_a_sentence(tokenizer):
    sample = draw_sample(3, "train", "bar_chart", turns=(30, 30))
    highest = next(turn for turn in sample.turns if turn.kind == "bar_chart/highest")
    turns = [("<image>\nWhich?", f"there are the {highest.answer}")]
    guides = guided(tokenizer, sample, turns, [highest.clue])
    assert guides[FIND_CLUE][0][0] == "<|assistant|>"
    assert len(guides[FIND_CLUE]) == 3
    assert guides[FIND_CLUE][-1][0] == guides[READ][0][0]


def test_no_target_for_absent_words(tokenizer):
    sample = draw_sample(4, "train", "receipt")
    guides = guided(tokenizer, sample, [("<image>\nWhat does the Qqq cost?", "1.234")])
    assert not any(guides.values())


def test_loss_is_attention_outside_the_targets():
    torch.manual_seed(0)
    attention = [torch.rand(2, 6, 6).softmax(-1) for _ in HEADS]
    guides = [
        [Guide(FIND_WORD, 3, (1, 2))],
        [Guide(ASK_LAST, 4, (0,)), Guide(FIND_WORD, 5, (2, 3, 4))],
    ]
    batch = collate_guides(guides)
    by_head: dict[tuple[int, int], list[float]] = {}
    for row, row_guides in enumerate(guides):
        for guide in row_guides:
            there = (
                attention[HEADS.index(guide.head)][row, guide.query, list(guide.keys)].sum().item()
            )
            by_head.setdefault(guide.head, []).append(-math.log(there + 1e-4))
    expected = [sum(losses) / len(losses) for losses in by_head.values()]
    loss = guide_loss(attention, batch["guides"], batch["guide_keys"])
    assert loss.item() == pytest.approx(sum(expected) / 2, rel=1e-5)
    none = collate_guides([[], []])
    assert guide_loss(attention, none["guides"], none["guide_keys"]).item() == 0
