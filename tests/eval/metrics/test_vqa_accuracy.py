import pytest

from mgm.eval.metrics.vqa_accuracy import (
    evalai_answer,
    lower_without_marks,
    normalize_words,
    remove_punctuation,
    vqa_accuracy,
)
from tests.golden_files import golden_json


def test_normalisation_equals_published():
    records = golden_json("eval/textvqa.json")["processor"]
    assert len(records) > 90
    for record in records:
        text = record["input"]
        assert lower_without_marks(text) == record["word_tokenize"], text
        assert remove_punctuation(text) == record["process_punctuation"], text
        assert normalize_words(text) == record["process_digit_article"], text
        assert evalai_answer(text) == record["output"], text


def test_scores_equal_published():
    records = golden_json("eval/textvqa.json")
    scores = [vqa_accuracy(one["pred_answer"], one["gt_answers"]) for one in records["scores"]]
    assert scores == pytest.approx([one["textvqa"] for one in records["scores"]])
