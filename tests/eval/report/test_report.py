import pytest
from PIL import Image

from mgm.eval.harness.question import Answered, Question
from mgm.eval.report.paper_results import verdict
from mgm.eval.report.report import by_answer_length, by_image_size, described, table, write_report
from mgm.eval.report.score import Score


@pytest.fixture
def answered(tmp_path):
    found = []
    for number, side in enumerate((100, 400, 800, 2000)):
        file = tmp_path / f"{number}.png"
        Image.new("RGB", (side, side // 2), "red").save(file)
        question = Question(str(number), "<b>what?</b>", (file,), answer="red")
        found.append(Answered(question, "word " * (3 * number + 1)))
    return found


def score_of(answered, **changes) -> Score:
    facts = {
        "benchmark": "textvqa:val", "title": "TextVQA", "metric": "accuracy", "protocol": "paper",
        "judge": "", "value": 64.0, "low": 62.0, "high": 66.0, "questions": 5000, "expected": 5000,
        "parts": {"a": (50.0, 2)},
        "credits": {one.question.id: float(n % 2) for n, one in enumerate(answered)},
        "groups": {one.question.id: one.question.id for one in answered},
    }  # fmt: skip
    return Score(**facts | changes)


def test_credit_by_length_and_size(answered):
    score = score_of(answered)
    assert by_answer_length(score, answered) == {
        "below 2 words": (0, 1), "2 to 4 words": (100, 1), "5 to 19 words": (50, 2),
    }  # fmt: skip
    assert by_image_size(score, answered) == {
        "below 336 pixels": (0, 1), "336 to 767 pixels": (100, 1), "768 to 1535 pixels": (0, 1),
        "from 1536 pixels": (100, 1),
    }  # fmt: skip


def test_fewer_questions_are_never_the_score(answered):
    assert described(score_of(answered)) == "64.0 (95 %: 62.0 to 66.0)"
    some = score_of(answered, questions=4)
    assert described(some).startswith("partial, 4 of 5000 questions")
    assert "65.2" not in table([some], "MGM-7B")
    assert described(score_of(answered, value=None)) == "to be submitted"


def test_beside_the_published_table(answered):
    assert "65.2 (-1.2, agrees)" in table([score_of(answered)], "MGM-7B")
    assert "70.1 (-6.1, differs)" in table([score_of(answered)], "MGM-34B")
    assert verdict("MGM-7B", "gqa:testdev", 60, 59, 61) is None
    assert verdict("another", "textvqa:val", 60, 59, 61) is None
    found = verdict("MGM-7B-HD", "mme:test", 1800, 1700, 1900)
    assert (found.published, found.agrees) == (1865, True)


def test_the_page_shows_wrong_answers_with_their_images(answered, tmp_path):
    _, page = write_report(tmp_path, "m", [score_of(answered)], {"textvqa:val": answered})
    text = page.read_text()
    assert "2 answers without full credit" in text
    assert text.count("data:image/jpeg;base64,") == 2
    assert "&lt;b&gt;what?&lt;/b&gt;" in text
    assert "<b>what?" not in text
    assert "credit by size of the image" in text
