"""Texts, ids and labels compared with published ones; docs/compatibility.md has the differences."""

import json
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from mgm.data.sources.formats.record import parse_sample
from mgm.data.sources.sample import Sample
from mgm.data.text.conversation import (
    Segment,
    build_prompt,
    introduce_image,
    move_image_first,
)
from mgm.data.text.encoding import encode
from mgm.data.text.templates import get_template
from mgm.data.text.tokenizer import load_tokenizer
from mgm.model.labels import IGNORE_INDEX
from tests.data.published_masks import (
    PUBLISHED_IMAGE,
    Message,
    is_caption,
    loses_tokens,
    mask_cause,
    text_cause,
    warned,
)
from tests.golden_files import golden, golden_json

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/compatibility.md"


@cache
def tables() -> dict[str, Counter[str]]:
    """Counts of records in the document, by heading and first column."""
    counts: dict[str, Counter[str]] = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").split(":")[0]
        row = re.fullmatch(r"\| `([^`]+)` \|.*\| (\d+) \|", line)
        if row:
            counts.setdefault(heading, Counter())[row[1]] = int(row[2])
    return counts


def check_counts(heading: str, counts: Counter[str], whole: bool) -> None:
    """Compare with a table: exactly, or as upper bounds in a selection of the records."""
    documented = tables()[heading]
    assert set(counts) <= set(documented)
    assert counts["equal"]
    if whole:
        assert counts == documented
    else:
        assert counts <= documented


@cache
def load(name: str) -> PreTrainedTokenizerBase:
    return load_tokenizer(golden(f"tokenizers/{name.removesuffix('_fast')}"))


@cache
def pads(name: str) -> bool:
    """Whether a tokenizer has a padding token by default."""
    file = golden(f"tokenizers/{name.removesuffix('_fast')}/tokenizer_config.json")
    return json.loads(file.read_text(encoding="utf-8")).get("pad_token") is not None


def check(messages: list[Message]) -> Sample:
    markers = sum(message["value"].count("<image>") for message in messages)
    return parse_sample({"conversations": messages, "image": ["x"] * markers}, "here")


def published_labels(record):
    labels = [IGNORE_INDEX] * len(record["input_ids"])
    for start, end in record["label_spans"]:
        labels[start:end] = record["input_ids"][start:end]
    return labels


def one_image_each(messages: list[Message]) -> list[Message]:
    """Messages with one image, as published training changes several."""
    left = []
    for message in messages:
        text = message["value"]
        if "<image>" in text:
            text = "<image>\n" + text.replace("<image>", "").strip()
        left.append({**message, "value": text})
    return left


def test_prompts():
    records = golden_json("text/prompts.json")["prompts"]
    counts = Counter()
    for record in records:
        template = get_template(record["version"])
        turns = turns_of(record["messages"])
        if record["history"] == "tuple_first":  # what the published page sends with an image
            turns = introduce_image(template, turns)
        ours = build_prompt(template, turns)
        if "error" in record:
            assert is_caption(template), record
            assert any(answer for _, answer in turns), record
            assert ours == "".join(f"{text}\n" for turn in turns for text in turn if text)
            counts["answer in a caption"] += 1
        else:
            assert ours == record["prompt"], record
            counts["equal"] += 1
    check_counts("Prompts", counts, len(records) == tables()["Prompts"].total())


def turns_of(messages):
    """Published (role, text) messages as questions with answers."""
    texts = [text["tuple"][0] if isinstance(text, dict) else text for _, text in messages]
    return list(zip(texts[::2], texts[1::2], strict=True))


def test_ids_of_prompts():
    counts = Counter()
    records = golden_json("text/tokenizer_image_token.json")["records"]
    for record in records:
        try:
            tokenizer = load(record["tokenizer"])
        except pytest.skip.Exception:
            continue  # tests/golden has only some of the tokenizers
        ids, _ = encode([Segment(record["prompt"])], tokenizer, PUBLISHED_IMAGE, 1)
        what = record["tokenizer"], record["prompt"]
        if loses_tokens(record["prompt"], tokenizer):
            at_image = [k for k, token in enumerate(ids) if token == PUBLISHED_IMAGE]
            kept = [token for k, token in enumerate(ids) if k - 1 not in at_image]
            assert kept == record["ids"], what
            counts["written beginning"] += 1
        else:
            assert ids == record["ids"], what
            counts["equal"] += 1
    check_counts("Ids of prompts", counts, counts.total() == tables()["Ids of prompts"].total())


def test_training_texts_and_labels():
    content = golden_json("text/preprocess.json")
    kinds = golden_json("text/tokenizer_image_token.json")["tokenizers"]
    texts, labels = Counter(), Counter()
    for record in content["records"]:
        messages = content["conversations"][record["conv"]]
        template = get_template(record["version"], record["mm_use_im_start_end"])
        tokenizer, kind = load(record["tokenizer"]), kinds[record["tokenizer"]]
        what = record["version"], record["tokenizer"], record["conv"]
        cause = text_cause(template, messages, pads(record["tokenizer"]))
        texts[cause or "equal"] += 1
        if cause in ("no padding token", "not a caption"):
            assert "input_ids" not in record, what
            continue
        sample = check(messages)
        segments = sample.segments(template)
        ours = encode(segments, tokenizer, PUBLISHED_IMAGE, 1)
        assert (ours[0] != record["input_ids"]) == bool(cause), what
        if cause == "empty message":
            assert ours[1] != published_labels(record), what
            continue
        if cause == "several images":
            segments = check(one_image_each(messages)).segments(template)
            ours = encode(segments, tokenizer, PUBLISHED_IMAGE, 1)
            assert ours[0] == record["input_ids"], what
        total = sum(token != kind["pad_after_train_rule"] for token in record["input_ids"])
        cause, counted = mask_cause(
            template,
            "".join(segment.text for segment in segments),
            sample.turns[-1][1] is None,
            tokenizer,
            kind["legacy"] is True,
            total,
        )
        labels[cause or "equal"] += 1
        assert (ours[1] != published_labels(record)) == bool(cause), (*what, cause)
        if cause and counted is not None:
            assert not record["label_spans"], what
            assert warned(record) in (None, (counted, total)), what
    whole = len(content["records"]) == tables()["Ids of training texts"].total()
    check_counts("Ids of training texts", texts, whole)
    check_counts("Labels of training texts", labels, whole)


def test_every_record_is_counted_once():
    ids, labels = tables()["Ids of training texts"], tables()["Labels of training texts"]
    assert labels.total() == ids["equal"] + ids["several images"]


def test_empty_answer_truncates_the_published_text():
    content = golden_json("text/preprocess.json")
    for record in content["records"]:
        messages = content["conversations"][record["conv"]]
        template = get_template(record["version"], record["mm_use_im_start_end"])
        cause = text_cause(template, messages, pads(record["tokenizer"]))
        if cause != "empty message" or messages[-1]["value"]:
            continue
        *turns, (question, _) = check(messages).turns
        template = replace(template, layout=template.training or template.layout)
        broken_off = build_prompt(template, [*turns, (move_image_first(question), None)])
        ids, _ = encode([Segment(broken_off)], load(record["tokenizer"]), PUBLISHED_IMAGE, 1)
        assert ids == record["input_ids"]


def test_every_compat_comment_is_documented():
    paths = re.findall(r"`((?:\w+/)+\w+\.py)`", DOCUMENT.read_text(encoding="utf-8"))
    listed = {name for name in paths if name.partition("/")[0] not in ("mgm", "tests")}
    package = DOCUMENT.parents[1] / "mgm"
    marked = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if "Compat: " in file.read_text(encoding="utf-8")
    }
    assert listed == marked
