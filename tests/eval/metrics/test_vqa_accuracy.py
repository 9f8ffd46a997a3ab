import pytest

from mgm.eval.metrics.vqa_accuracy import (
    agreement,
    normal_answer,
    tokenized,
    without_articles,
    without_punctuation,
)
from tests.golden_files import golden_json


def test_every_record_of_the_published_processor():
    records = golden_json("eval/textvqa.json")["processor"]
    assert len(records) > 90
    for record in records:
        text = record["input"]
        assert tokenized(text) == record["word_tokenize"], text
        assert without_punctuation(text) == record["process_punctuation"], text
        assert without_articles(text) == record["process_digit_article"], text
        assert normal_answer(text) == record["output"], text


def test_every_score_of_the_published_evaluator():
    records = golden_json("eval/textvqa.json")
    scores = [agreement(one["pred_answer"], one["gt_answers"]) for one in records["scores"]]
    assert scores == pytest.approx([one["textvqa"] for one in records["scores"]])
