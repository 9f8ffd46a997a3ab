import json

import pytest

from mgm.errors import MGMError
from playground.evaluate import Question, counts_by_group, height_group, plot, read_questions, table
from playground.scenes.qa import SHORT_SUFFIX


def question(kind="sign/large", height=None):
    return Question(("a.png",), "What?", "Garden", kind, height)


def test_read_questions_takes_every_turn_without_its_markers(tmp_path):
    record = {
        "image": ["a.png", "b.png"],
        "conversations": [
            {"from": "human", "value": "<image>\n<image>\nSame word?"},
            {"from": "gpt", "value": "Yes"},
            {"from": "human", "value": "Which?"},
            {"from": "gpt", "value": "Garden"},
        ],
        "kinds": ["comparison/same word", "comparison/read word"],
        "text_heights": [8.0, None],
    }
    (tmp_path / "conversations.json").write_text(json.dumps([record]))
    first, second = read_questions(tmp_path, limit=None)
    images = tuple(str(tmp_path / "images" / name) for name in ("a.png", "b.png"))
    assert first == Question(images, "Same word?", "Yes", "comparison/same word", 8.0)
    assert second == Question(images, "Which?", "Garden", "comparison/read word", None)


def test_short_answer_suffix_applies_to_every_question(tmp_path):
    record = {
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhich?" + SHORT_SUFFIX},
            {"from": "gpt", "value": "first"},
            {"from": "human", "value": "How many?"},
            {"from": "gpt", "value": "2"},
        ],
        "kinds": ["sign/text", "sign/lines"],
        "text_heights": [None, None],
    }
    (tmp_path / "conversations.json").write_text(json.dumps([record]))
    texts = [question.text for question in read_questions(tmp_path, limit=None)]
    assert texts == ["Which?" + SHORT_SUFFIX, "How many?" + SHORT_SUFFIX]


def test_read_questions_names_a_missing_file(tmp_path):
    with pytest.raises(MGMError, match=r"conversations\.json: no such file"):
        read_questions(tmp_path, limit=None)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "not valid JSON"),
        ('[{"conversations": 3}]', "sample 0: 'conversations' is a number"),
        (
            '[{"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]}]',
            "sample 0: has no kind and text height",
        ),
    ],
)
def test_file_of_another_program(text, fault, tmp_path):
    (tmp_path / "conversations.json").write_text(text)
    with pytest.raises(MGMError, match=fault):
        read_questions(tmp_path, limit=None)


def test_exact_matches_are_counted_by_group():
    questions = [question(height=12.5), question(height=30.0), question("shapes/count")]
    answers = ["Garden", "garden", "Garden"]
    assert counts_by_group(questions, answers, lambda q: q.kind) == {
        "shapes/count": (1, 1),
        "sign/large": (1, 2),
    }
    assert counts_by_group(questions, answers, height_group) == {
        "text 12-20 px": (1, 1),
        "text 28-44 px": (0, 1),
    }


def test_table_and_plot_show_every_model(tmp_path):
    counts = {"sign": (1, 4), "text 12-20 px": (1, 4), "all": (1, 4)}
    results = {"before": counts, "after": dict.fromkeys(counts, (3, 4))}
    lines = table(results).splitlines()
    assert lines[0].split()[-2:] == ["before", "after"]
    assert lines[1].split() == ["sign", "4", "25.0", "75.0"]
    plot(results, tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
