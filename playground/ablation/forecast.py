"""Forecast of the CPU hours of open units, from those of finished units."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from playground.ablation.execution.runner import unit_folder
from playground.ablation.execution.unit_folder import State
from playground.ablation.study import Unit


@dataclass(frozen=True)
class SizeForecast:
    """Forecast for the units of one size.

    Attributes:
        finished: number of finished units.
        left: number of open, running or interrupted units.
        failed: number of failed units.
        cpu_hours: expected CPU time of the units left, on one core each.
        measured: numbers of units left whose estimate comes from their own arm, from other arms of
            this size, and from the constant of the study file.
    """

    size: str
    finished: int
    left: int
    failed: int
    cpu_hours: float
    measured: tuple[int, int, int]


def forecast(units: Sequence[Unit], out: Path) -> list[SizeForecast]:
    """Forecast the CPU time of each size.

    CPU time does not depend on pauses and other programs. Units that were started more than once
    are left out: the CPU time of killed processes is unknown.

    Args:
        units: all units.
        out: output folder of the study.
    """
    states = {unit.name: unit_folder(out, unit).state for unit in units}
    rows = []
    for size in dict.fromkeys(unit.size.name for unit in units):
        own = [unit for unit in units if unit.size.name == size]
        hours: dict[str, list[float]] = {}
        for unit in own:
            if states[unit.name] is State.FINISHED:
                result = unit_folder(out, unit)
                content = result.read(result.result_file)
                if content["starts"] == 1:
                    total = sum(content["phases"].values()) / 3600
                    hours.setdefault(unit.arm.name, []).append(total)
        everything = [value for values in hours.values() for value in values]
        left = [u for u in own if states[u.name] not in (State.FINISHED, State.FAILED)]
        estimates = [hours.get(u.arm.name) or everything or [u.size.cpu_hours] for u in left]
        by_arm = sum(unit.arm.name in hours for unit in left)
        by_size = len(left) - by_arm if everything else 0
        rows.append(
            SizeForecast(
                size=size,
                finished=sum(states[unit.name] is State.FINISHED for unit in own),
                left=len(left),
                failed=sum(states[unit.name] is State.FAILED for unit in own),
                cpu_hours=sum(map(fmean, estimates)),
                measured=(by_arm, by_size, len(left) - by_arm - by_size),
            )
        )
    return rows


def forecast_table(rows: Sequence[SizeForecast], slots: int) -> str:
    """Format a forecast as a plain-text table, with the hours until all units have finished.

    Args:
        rows: output of `forecast`.
        slots: number of units that run in parallel, on one core each.
    """
    lines = ["size  finished  left  failed  CPU hours left  estimated from (units)"]
    for row in rows:
        names = ("the same arm", "other arms", "the study file")
        sources = [f"{name} {n}" for name, n in zip(names, row.measured, strict=True) if n]
        lines.append(
            f"{row.size:<4}  {row.finished:>8}  {row.left:>4}  {row.failed:>6}  "
            f"{row.cpu_hours:>14.1f}  {', '.join(sources)}"
        )
    total = sum(row.cpu_hours for row in rows)
    lines.append(f"{total:.1f} CPU hours; {total / slots:.1f} hours with {slots} units at a time")
    return "".join(f"{line}\n" for line in lines)
