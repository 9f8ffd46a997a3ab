"""Table 1 of the paper, and comparison of scores with it."""

from collections.abc import Mapping
from dataclasses import dataclass

# Source: README of the published repository, Table 1 of the paper (arXiv 2403.18814). MME as
# perception and cognition; None: not reported.
PAPER_COLUMNS = ("textvqa:val", "mmbench:dev", "mme:test", "mmvet:test", "mmmu:val", "mmmu:test",
           "mathvista:testmini")  # fmt: skip
TITLES = ("TextVQA", "MMBench", "MME", "MM-Vet", "MMMU val", "MMMU test", "MathVista")
_Value = float | tuple[float, float] | None
_ROWS: dict[str, tuple[_Value, ...]] = {
    "MGM-2B": (56.2, 59.8, (1341, 312), 31.1, 31.7, 29.1, 29.4),
    "MGM-7B": (65.2, 69.3, (1523, 316), 40.8, 36.1, 32.8, 31.4),
    "MGM-13B": (65.9, 68.5, (1565, 322), 46.0, 38.1, 33.5, 37.0),
    "MGM-8B": (67.6, 72.7, (1606, 341), 47.3, 38.2, 36.3, None),
    "MGM-8x7B": (69.2, 75.6, (1639, 379), 45.8, 41.8, 37.1, 41.8),
    "MGM-34B": (70.1, 79.6, (1666, 439), 53.0, 48.7, 43.6, 38.9),
    "MGM-7B-HD": (68.4, 65.8, (1546, 319), 41.3, 36.8, 32.9, 32.2),
    "MGM-13B-HD": (70.2, 68.6, (1597, 320), 50.5, 37.3, 35.1, 37.0),
    "MGM-8B-HD": (71.6, None, (1532, 357), None, 37.0, None, None),
    "MGM-8x7B-HD": (71.9, 74.7, (1633, 356), 53.5, 40.0, 37.0, 43.1),
    "MGM-34B-HD": (74.1, 80.6, (1659, 482), 59.3, 48.0, 44.9, 43.3),
}
PAPER_RESULTS: dict[str, dict[str, float | tuple[float, float]]] = {
    model: {
        name: value for name, value in zip(PAPER_COLUMNS, row, strict=True) if value is not None
    }
    for model, row in _ROWS.items()
}


@dataclass(frozen=True)
class PaperComparison:
    """A score compared with the published one.

    Attributes:
        published: the published score, the sum of its parts.
        difference: difference of our score from it.
        agrees: whether it lies in our 95 % interval; None: no interval.
    """

    published: float
    difference: float
    agrees: bool | None


def compare_with_paper(
    model: str, benchmark: str, value: float, low: float | None, high: float | None
) -> PaperComparison | None:
    """Compare a score with the published one; None: there is none.

    Args:
        model: published name of the model.
        benchmark: benchmark with its split, such as "textvqa:val".
        value: our score.
        low: lower end of its interval; None: no interval.
        high: upper end of its interval.
    """
    result = PAPER_RESULTS.get(model, {}).get(benchmark)
    if result is None:
        return None
    total = sum(result) if isinstance(result, tuple) else result
    agrees = None if low is None or high is None else low <= total <= high
    return PaperComparison(total, value - total, agrees)


def paper_table(model: str, values: Mapping[str, str]) -> list[list[str]]:
    """Rows like those of the paper's table: header, published scores, our scores.

    Args:
        model: name of the model; published scores are shown if the paper has it.
        values: formatted scores, by benchmark with its split.

    Returns:
        Empty if the paper has none of the benchmarks.
    """
    if not any(name in values for name in PAPER_COLUMNS):
        return []
    rows = [["model", *TITLES]]
    if model in PAPER_RESULTS:
        published = [_shown(PAPER_RESULTS[model].get(name)) for name in PAPER_COLUMNS]
        rows.append([f"{model}, as published", *published])
    return [*rows, [f"{model}, this run", *(values.get(name, "–") for name in PAPER_COLUMNS)]]


def _shown(value: _Value) -> str:
    if isinstance(value, tuple):
        return "/".join(f"{one:.0f}" for one in value)
    return "–" if value is None else f"{value:.1f}"
