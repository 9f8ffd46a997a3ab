"""Comparisons of invented models by the reported score."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from mgm.errors import MGMError
from mgm.eval.compare.comparison import compare_scores, images_needed
from mgm.eval.compare.folders import compare_folders, folder_names, scored_by_one
from mgm.eval.compare.table import comparison_line, write_comparison
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response
from mgm.eval.registry import BENCHMARKS
from mgm.eval.report.score import credit_of, load_score, question_hash, restore_question, save_score
from mgm.eval.report.scoring import score_responses
from tests.eval.fixtures import make_all


def mmbench(rounds):
    """Scores of a model that is right (1) or wrong (0) in the rounds of each question."""
    responses = []
    for number, own in enumerate(rounds):
        for turn, right in enumerate(own):
            question = Question(
                f"{number}/{turn}", "?", target="A", group=str(number),
                metadata={"question": "?", "choices": ["x1", "x2"]},
            )  # fmt: skip
            responses.append(Response(question, "A" if right else "B"))
    questions = [one.question for one in responses]
    return score_responses(BENCHMARKS["mmbench"], "dev", "paper", questions, responses, Judge())


def yes_no(name, answers, labels=("yes", "no"), category="existence"):
    """Scores of a model with these responses, two per image."""
    responses = [
        Response(
            Question(
                str(number), "?", target=labels[number % 2], group=f"image {number // 2}",
                category=category, metadata={"question_id": str(number)},
            ),
            text,
        )
        for number, text in enumerate(answers)
    ]  # fmt: skip
    kind = BENCHMARKS[name]
    questions = [one.question for one in responses]
    return score_responses(kind, "test", "paper", questions, responses, Judge())


def compared(name, first, second):
    return compare_scores(BENCHMARKS[name], (first, second), ("a", "b"))


def test_mmbench_by_circular_score():
    """With equal credits: one model has whole questions right, the other half of the rounds."""
    whole = mmbench([(1, 1), (0, 0)] * 20)
    halves = mmbench([(1, 0), (0, 1)] * 20)
    comparison = compared("mmbench", whole, halves)
    assert (
        (comparison.first_value, comparison.second_value) == (whole.value, halves.value) == (50, 0)
    )
    assert comparison.difference == -50
    assert comparison.differ
    assert comparison.verdict == "a is better"
    assert -75 < comparison.interval.low < -50 < comparison.interval.high < -25


def test_mme_by_its_sum():
    """With equal accuracy, in pairs of one image or in halves of pairs."""
    pairs = yes_no("mme", ["yes", "no", "no", "yes"] * 20)  # both right, both wrong
    halves = yes_no("mme", ["yes", "yes", "no", "no"] * 20)  # one of two right
    comparison = compared("mme", pairs, halves)
    assert (
        (comparison.first_value, comparison.second_value)
        == (pairs.value, halves.value)
        == (100, 50)
    )
    assert comparison.difference == -50
    assert comparison.margin == pytest.approx(0.02 * 200)  # of one kind
    assert comparison.interval.low < -50 < comparison.interval.high < 0


def test_pope_by_f1():
    """Always-yes and always-no have equal accuracy, and different F1."""
    yes = yes_no("pope", ["yes"] * 60, category="random")
    no = yes_no("pope", ["no"] * 60, category="random")
    comparison = compared("pope", yes, no)
    assert comparison.first_value == pytest.approx(200 / 3)
    assert comparison.second_value == 0
    assert comparison.verdict == "a is better"


def test_saved_scores_can_be_combined(tmp_path):
    """score.json has the inputs of `combine` for every benchmark."""
    data = make_all(tmp_path / "data")
    for kind in BENCHMARKS.values():
        if not (data / kind.folder).is_dir():
            continue
        split, protocol = kind.splits[0], kind.protocols_of(kind.splits[0])[0]
        try:
            questions = list(kind.questions(data / kind.folder, split, protocol))
        except MGMError:  # the fixtures have no files for this protocol
            continue
        texts = ["yes", "A", "no", "red", str(questions[0].target)]
        responses = [Response(one, texts[n % len(texts)]) for n, one in enumerate(questions)]
        score = score_responses(kind, split, protocol, questions, responses, Judge())
        if score.value is None:
            continue
        save_score(score, tmp_path / "score.json")
        again = load_score(tmp_path / "score.json")
        assert again == score
        if kind.is_mean():
            continue
        restored = [restore_question(again, name) for name in again.credits]
        credits = [credit_of(again, name) for name in again.credits]
        assert kind.combine(restored, credits) == score.value, kind.name


def test_equivalence_needs_enough_questions():
    few = mmbench([(1, 1), (0, 0)] * 5)
    comparison = compared("mmbench", few, few)
    assert (comparison.difference, comparison.p_value, comparison.changed) == (0, 1, 0)
    assert comparison.verdict == "no significant difference"
    many = mmbench([(1, 1), (0, 0)] * 500)
    assert compared("mmbench", many, many).verdict == "the same within 2 points"
    tiny = mmbench([(1, 1)] * 3)
    comparison = compared("mmbench", tiny, tiny)
    assert comparison.interval is None
    assert comparison.verdict == "no significant difference: too few images"


def test_small_difference_is_significant_and_equivalent():
    draw = np.random.default_rng(0)
    first = (draw.random(20_000) < 0.5).astype(int)
    second = np.where((first == 0) & (draw.random(20_000) < 0.016), 1, first)
    kind = BENCHMARKS["scienceqa"]
    base = replace(
        mmbench([(1, 1)] * 6), benchmark="scienceqa:test", inputs={},
        groups={str(n): str(n) for n in range(20_000)},
    )  # fmt: skip
    scores = tuple(
        replace(base, credits={str(n): float(one) for n, one in enumerate(own)})
        for own in (first, second)
    )
    comparison = compare_scores(kind, scores, ("a", "b"))
    assert comparison.verdict == "b is better, by less than 2 points"
    assert comparison.needed is None


def test_order_of_models_changes_the_sign():
    one = yes_no("pope", ["yes", "no", "yes", "yes"] * 15, category="random")
    other = yes_no("pope", ["yes", "no", "no", "no"] * 15, category="random")
    there, back = compared("pope", one, other), compared("pope", other, one)
    assert there.difference == -back.difference
    assert there.interval.low == pytest.approx(-back.interval.high)
    assert there.p_value == back.p_value


def test_incomparable_scores():
    score = mmbench([(1, 1), (0, 0)] * 5)
    old = replace(score, inputs={}, format=1)
    with pytest.raises(MGMError, match=r"older version.*--score-only"):
        compared("mmbench", old, score)
    with pytest.raises(MGMError, match="judged by '' and by 'gpt'; use one judge"):
        compared("mmbench", score, replace(score, judge="gpt"))
    others = replace(score, credits={"x": 1.0}, groups={"x": "x"})
    with pytest.raises(MGMError, match="share no scored question"):
        compared("mmbench", score, others)
    moved = replace(score, groups=dict.fromkeys(score.groups, "0"))
    with pytest.raises(MGMError, match="on the same data"):
        compared("mmbench", score, moved)


@pytest.fixture
def outputs(tmp_path):
    """Outputs of three models, of which the last lacks one benchmark."""
    scores = {
        "base": [mmbench([(1, 1), (0, 0)] * 20), yes_no("mme", ["yes", "no"] * 20)],
        "better": [mmbench([(1, 1)] * 40), yes_no("mme", ["yes", "no"] * 20)],
        "<b>third": [mmbench([(0, 1)] * 40)],
    }
    folders = []
    for name, own in scores.items():
        for score in own:
            folder = tmp_path / name / score.benchmark.replace(":", "/") / "paper"
            folder.mkdir(parents=True)
            save_score(score, folder / "score.json")
        folders.append(tmp_path / name)
    return folders


def test_many_models(outputs, tmp_path):
    comparisons, problems = compare_folders(outputs, BENCHMARKS)
    assert problems == []
    assert [(one.benchmark, one.second, one.difference) for one in comparisons] == [
        ("mmbench:dev", "better", 50), ("mme:test", "better", 0), ("mmbench:dev", "<b>third", -50),
    ]  # fmt: skip
    assert "better 100.00, base 50.00, difference +50.00 (95 %: " in comparison_line(comparisons[0])
    for name in ("c.md", "c.html", "c.json"):
        write_comparison(tmp_path / name, comparisons, ["a line"])
    assert (
        "| mmbench:dev, paper | base: 50.00 | better: 100.00 | +50.00 |"
        in (tmp_path / "c.md").read_text()
    )
    page = (tmp_path / "c.html").read_text()
    assert "<b>third" not in page
    assert "&lt;b&gt;third" in page
    records = json.loads((tmp_path / "c.json").read_text())
    assert records["problems"] == ["a line"]
    assert records["comparisons"][0]["verdict"] == "better is better"


def test_damaged_score_is_skipped(outputs):
    (outputs[1] / "mme" / "test" / "paper" / "score.json").write_text('{"value": 1}')
    comparisons, problems = compare_folders(outputs, BENCHMARKS)
    assert len(comparisons) == 2
    assert "not a score.json of mgm" in problems[0]
    with pytest.raises(MGMError, match="no benchmark was scored for two models"):
        compare_folders([outputs[0], outputs[0] / "mmbench" / "dev"], BENCHMARKS)


def test_folders_with_equal_names(tmp_path):
    assert folder_names([tmp_path / "a" / "out", tmp_path / "b" / "out"]) == ["a/out", "b/out"]
    assert folder_names([tmp_path / "a", tmp_path / "a"]) == ["a", "a"]


def letters(count, answers, text="?", right="A", groups=None):
    """A score of scienceqa with one image per question."""
    questions = [
        Question(str(n), f"{text} {n}", target=right, group=groups[n] if groups else f"{n}.png",
                 metadata={"choices": ["x", "y"]})
        for n in range(count)
    ]  # fmt: skip
    credits = dict(zip((one.id for one in questions), answers, strict=True))
    score = mmbench([(1, 1)] * 6)
    return replace(
        score, benchmark="scienceqa:test", inputs={}, credits=credits, expected=count,
        questions=count, groups={one.id: one.group for one in questions},
        question_hashes={one.id: question_hash(one) for one in questions},
    )  # fmt: skip


def test_different_questions_with_equal_ids():
    """Other texts or targets; questions in common are compared."""
    one = letters(30, [1.0] * 30)
    kind = BENCHMARKS["scienceqa"]
    for other in (letters(30, [0.0] * 30, text="!"), letters(30, [0.0] * 30, right="B")):
        with pytest.raises(MGMError, match="question 0 or its target differs"):
            compare_scores(kind, (one, other), ("a", "b"))
    some = replace(letters(10, [0.0] * 10), expected=30)
    comparison = compare_scores(kind, (one, some), ("a", "b"))
    assert comparison.partial == "partial: b 10 of 30 questions"
    assert "partial: b 10 of 30 questions" in comparison_line(comparison)
    assert comparison.remarks == ()


def test_scores_of_older_versions():
    one = replace(letters(30, [1.0] * 30), run={"data": {"digest": "x"}})
    old = replace(one, question_hashes={}, run={})
    kind = BENCHMARKS["scienceqa"]
    comparison = compare_scores(kind, (one, old), ("a", "b"))
    assert "could not check that the questions are the same" in comparison.remarks[0]
    assert "could not check that the questions are the same" in comparison_line(comparison)
    same = replace(one, question_hashes={})
    assert compare_scores(kind, (one, same), ("a", "b")).remarks == ()


def test_different_settings_are_listed():
    one = letters(30, [1.0] * 30)
    runs = [replace(one, run={"settings": {"strip_thinking": flag, "max_new_tokens": None}})
            for flag in (False, True)]  # fmt: skip
    comparison = compare_scores(BENCHMARKS["scienceqa"], tuple(runs), ("a", "b"))
    assert comparison.remarks == ("--strip-thinking differs: False and True",)


def test_needed_images_exceed_those_of_the_benchmark():
    kind = BENCHMARKS["scienceqa"]
    five = letters(5, [1.0] * 5), letters(5, [0.0] * 5)
    comparison = compare_scores(kind, five, ("a", "b"))
    assert comparison.p_value == pytest.approx(2 / 2**5)
    assert comparison.needed == 6
    assert comparison.verdict == "no significant difference; about 6 images would be needed"
    assert images_needed(10.0, 1.0, 100, 50) is None
    # Ten questions per image: images are counted.
    groups = [f"{n // 10}.png" for n in range(200)]
    answers = np.random.default_rng(0).random((2, 200)) < 0.5
    pair = tuple(letters(200, list(map(float, own)), groups=groups) for own in answers)
    comparison = compare_scores(kind, pair, ("a", "b"))
    assert comparison.images == 20
    assert comparison.needed is None or comparison.needed > 20


def test_rounding_of_sums_is_not_a_difference():
    """0.1 + 0.2 + … differs from the reverse order by rounding."""
    kind = BENCHMARKS["textvqa"]
    draw = np.random.default_rng(0)
    rounded = 0
    for _ in range(10):
        one, other = ([float(n) for n in draw.permutation([0.3, 0.6, 0.9, 1.0, 0.0] * 6)]
                      for _ in range(2))  # fmt: skip
        rounded += sum(one) != sum(other)
        comparison = compare_scores(kind, (letters(30, one), letters(30, other)), ("a", "b"))
        assert (comparison.difference, comparison.needed) == (0.0, None)
        assert comparison.verdict == "no significant difference"
    assert rounded


def test_bars_share_a_scale(tmp_path):
    """A difference of 50 points has a longer bar than one of 10."""
    kind = BENCHMARKS["scienceqa"]
    widths = [
        compare_scores(kind, (letters(200, [0.0] * 200), letters(200, own)), ("a", "b"))
        for own in ([1.0] * 20 + [0.0] * 180, [1.0] * 100 + [0.0] * 100)
    ]
    write_comparison(tmp_path / "page.html", widths)
    page = (tmp_path / "page.html").read_text()
    scales = re.findall(r"class=track title='([^']*)'", page)
    assert len(scales) == 2
    assert len(set(scales)) == 1


def test_benchmarks_of_one_model_are_listed(outputs):
    lines = scored_by_one(outputs)
    assert lines
    assert all("only base has mme/test/paper" in one for one in lines)
