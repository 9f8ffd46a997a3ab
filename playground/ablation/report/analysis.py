"""Estimates of a report: scores of arms, differences of families, controls, spread of seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from playground.ablation.report.results import BINS, PRIMARY, Results, UnitResult
from playground.ablation.report.statistics import Estimate, estimates, seed_spread
from playground.ablation.study import Comparison, Study

Row = Mapping[str, Estimate]  # by bin


@dataclass(frozen=True)
class Family:
    """The differences of a comparison.

    Attributes:
        seeds: seeds with results of the reference and of all rivals; differences are paired by
            seed.
        planned: number of common seeds in the study.
        rows: estimates by rival.
        missing: rivals that have no seed in common with the reference.
    """

    comparison: Comparison
    seeds: Sequence[int]
    planned: int
    rows: Mapping[str, Row]
    missing: Sequence[str]

    @property
    def is_complete(self) -> bool:
        """Whether all seeds of all rivals have results, which a verdict requires."""
        return not self.missing and len(self.seeds) == self.planned


def scores(results: Results, size: str, arms: Sequence[str]) -> dict[str, Row]:
    """Estimate the scores of arms that have results."""
    rows = {}
    for arm in arms:
        units = list(results.of(size, arm).values())
        if units:
            rows[arm] = _row(results, units)
    return rows


def family(results: Results, study: Study, comparison: Comparison) -> Family:
    """Estimate the reference minus each rival, with simultaneous intervals in each bin."""
    arms = (comparison.reference, *comparison.rivals)
    planned = set.intersection(*(study.seeds(comparison.size, arm) for arm in arms))
    reference = results.of(comparison.size, comparison.reference)
    rivals = {name: results.of(comparison.size, name) for name in comparison.rivals}
    present = {name: units for name, units in rivals.items() if units.keys() & reference.keys()}
    missing = [name for name in rivals if name not in present]
    seeds = sorted(set(reference).intersection(*present.values())) if present else []
    rows: dict[str, dict[str, Estimate]] = {name: {} for name in present if seeds}
    for name in BINS if rows else ():
        ours, totals = results.arrays([reference[seed] for seed in seeds], name)
        theirs = [results.arrays([present[r][seed] for seed in seeds], name)[0] for r in rows]
        differences = np.stack([ours - rival for rival in theirs])
        all_estimates = estimates(differences, totals, simultaneous=True)
        for rival, estimate in zip(rows, all_estimates, strict=True):
            rows[rival][name] = estimate
    return Family(comparison, seeds, len(planned), rows, missing)


def controls(results: Results, size: str, arm: str) -> dict[str, Row]:
    """Estimate the effect of each inference-time ablation on an arm's trained models."""
    units = list(results.of(size, arm).values())
    rows: dict[str, Row] = {}
    for control in units[0].controls if units else ():
        changed = [replace(unit, right=unit.controls[control] - unit.right) for unit in units]
        rows[control] = _row(results, changed)
    return rows


def spreads(results: Results, study: Study, size: str) -> dict[str, tuple[int, float]]:
    """Number of seeds, and their standard deviation in the primary bin, by arm."""
    by_arm = {}
    for arm in study.arms:
        units = list(results.of(size, arm).values())
        spread = seed_spread(*results.arrays(units, PRIMARY)) if units else None
        if spread is not None:
            by_arm[arm] = (len(units), spread)
    return by_arm


def _row(results: Results, units: Sequence[UnitResult]) -> Row:
    arrays = {name: results.arrays(units, name) for name in BINS}
    return {name: estimates(right[None], totals)[0] for name, (right, totals) in arrays.items()}
