"""Differences of ablations and utilisation rates, from known responses."""

import numpy as np
import pytest

from mgm.errors import MGMError
from mgm.eval.ablation.definitions import Ablation
from mgm.eval.ablation.differences import (
    as_json,
    compare_ablation,
    utilisation,
)
from mgm.eval.benchmarks.mme import MME
from mgm.eval.benchmarks.nano import Nano
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response
from mgm.eval.report.ablation_table import utilisation_lines
from mgm.eval.report.markdown_tables import ablations_text
from mgm.eval.report.score import Score
from mgm.eval.report.scoring import score_responses

IMAGES, EACH = 40, 5


def score(right: np.ndarray) -> Score:
    """A score of right and wrong responses (images, questions per image)."""
    questions = [
        Question(f"{image}/{n}", "what?", target="red", group=str(image))
        for image, row in enumerate(right)
        for n in range(len(row))
    ]
    texts = ["red" if one else "blue" for one in right.flatten()]
    answers = [Response(*pair) for pair in zip(questions, texts, strict=True)]
    return score_responses(Nano(), "held_out", "paper", questions, answers, Judge())


def drawn(seed: int, share: float, lost: float) -> tuple[np.ndarray, np.ndarray]:
    """Right responses of a model, and of one that loses a share of them, image by image."""
    draw = np.random.default_rng(seed)
    hard = draw.normal(0, 0.2, (IMAGES, 1))
    full = draw.random((IMAGES, EACH)) < np.clip(share + hard, 0, 1)
    return full, full & (draw.random((IMAGES, EACH)) >= np.clip(lost + hard, 0, 1))


def test_lines_of_full_model_and_ablations() -> None:
    full, without = (score(one) for one in drawn(0, 0.9, 0.7))
    rows = [
        compare_ablation(Nano(), full, Ablation("hr_off"), without),
        compare_ablation(Nano(), full, Ablation("pool"), full),
    ]
    off, pool = (one.comparison for one in rows)
    assert off.difference == pytest.approx(without.value - full.value)
    assert off.interval.low < off.difference < off.interval.high < 0
    assert (pool.difference, pool.differ) == (0, False)
    assert pool.interval.low < 0 < pool.interval.high
    kept = as_json(full, rows, [])
    assert [one["name"] for one in kept["ablations"]] == ["hr_off", "pool"]
    line = kept["ablations"][0]
    assert line["difference_interval"] == [off.interval.low, off.interval.high]
    assert (line["value"], line["questions"]) == (without.value, IMAGES * EACH)
    lines = ablations_text(full, kept).splitlines()[3:]
    assert len(lines) == 5
    assert lines[2].startswith(f"| full model |  | {full.value:.1f} (")
    assert f"| hr_off | high-resolution branch off (mined = 0) | {without.value:.1f} (" in lines[3]
    ends = f"({off.interval.low:+.1f} to {off.interval.high:+.1f})"
    assert lines[3].endswith(f"| {off.difference:+.1f} {ends} | 200 | full model is better |")
    assert ablations_text(full, {}) == ""


def test_utilisation_is_the_lost_share_of_the_score() -> None:
    full, without = (score(one) for one in drawn(1, 0.8, 0.5))
    rate = utilisation(Nano(), full, without, "high-resolution encoder")
    assert rate.rate == pytest.approx((full.value - without.value) / full.value)
    assert rate.interval.low < rate.rate < rate.interval.high
    (line,) = utilisation_lines(full, as_json(full, [], [rate]))
    assert line == (
        f"utilisation of the high-resolution encoder: {rate.rate:.2f} "
        f"(95 %: {rate.interval.low:.2f} to {rate.interval.high:.2f})"
    )
    harm = utilisation(Nano(), without, full, "x")
    assert harm.rate == pytest.approx((without.value - full.value) / without.value)
    assert harm.rate < 0


def test_interval_if_nothing_or_everything_is_lost() -> None:
    full, _ = drawn(2, 0.8, 0.5)
    none, every = score(np.zeros_like(full)), score(full)
    lost = utilisation(Nano(), every, none, "x")
    assert lost.rate == lost.interval.high == 1
    assert 0.7 < lost.interval.low < 1
    same = utilisation(Nano(), every, every, "x")
    assert same.rate == 0
    assert same.interval.low < 0 < same.interval.high < 0.1
    assert utilisation(Nano(), none, every, "x") is None
    few = utilisation(Nano(), score(full[:3]), score(full[:3]), "x")
    assert few.interval is None
    (line,) = utilisation_lines(every, as_json(every, [], [few]))
    assert line == "utilisation of the x: 0.00 (too few images)"


def test_coverage_of_intervals() -> None:
    """Questions of an image are lost together; the true rate is that of very many images."""
    many = [drawn(seed, 0.8, 0.4) for seed in range(1000, 1300)]
    true = 1 - sum(a.sum() for _, a in many) / sum(f.sum() for f, _ in many)
    inside = 0
    for seed in range(60):
        full, without = drawn(seed, 0.8, 0.4)
        interval = utilisation(Nano(), score(full), score(without), "x").interval
        inside += interval.low <= true <= interval.high
    assert inside >= 54


def test_score_that_is_not_a_mean() -> None:
    questions = [
        Question(f"{image}/{n}", "is it?", target="yes", group=str(image), category="color")
        for image in range(8)
        for n in range(2)
    ]

    def of(wrong: int) -> Score:
        texts = ["No" if n < wrong else "Yes" for n in range(len(questions))]
        answers = [Response(*pair) for pair in zip(questions, texts, strict=True)]
        return score_responses(MME(), "test", "paper", questions, answers, Judge())

    full, without = of(1), of(7)
    rate = utilisation(MME(), full, without, "x")
    assert rate.rate == pytest.approx(1 - without.value / full.value)
    assert rate.interval.low < rate.rate < rate.interval.high
    row = compare_ablation(MME(), full, Ablation("hr_off"), without)
    assert row.comparison.difference == pytest.approx(without.value - full.value)


def test_benchmark_without_public_targets() -> None:
    full = score(np.ones((8, 1), bool))
    with pytest.raises(MGMError, match="targets are not public"):
        compare_ablation(Nano(), Score(**vars(full) | {"value": None}), Ablation("pool"), full)
