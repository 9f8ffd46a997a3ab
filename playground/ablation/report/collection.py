"""Copies the inputs of reports from units' folders to small JSON files, which are committed.

results/items/DIGEST.json       the held-out questions, or images of a probe
results/units/SIZE/ARM/seed-N.json
results/failed.json             units that failed, with the last lines of their logs
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mgm.atomic import atomic_file
from playground.ablation.execution.run_unit import ANSWERS_FILE, PROBE_FILE
from playground.ablation.execution.runner import unit_folder
from playground.ablation.execution.unit_folder import State, UnitFolder
from playground.ablation.study import Study

ITEM_COLUMNS = ("image", "kind", "height", "totals")


def collect(study: Study, out: Path, results: Path) -> None:
    """Write the results of finished units; keeps those of units without a folder in `out`.

    Args:
        study: the units.
        out: output folder of the study.
        results: folder to write.
    """
    failed: dict[str, Any] = _read(results / "failed.json")
    for unit in study.units:
        folder = unit_folder(out, unit)
        state = folder.state
        if state is State.FAILED:
            failed[unit.name] = folder.read(folder.failure_file)
        elif state is State.FINISHED:
            failed.pop(unit.name, None)
            items, right, controls = unit_items(folder)
            digest = hashlib.sha256(_compact(items).encode()).hexdigest()[:16]
            _write(results / "items" / f"{digest}.json", items)
            content = folder.read(folder.result_file)
            content["settings"].pop("paths")  # they are specific to this machine
            content |= {"items": digest, "right": right, "controls": controls}
            _write(results / "units" / f"{unit.name}.json", content)
    _write(results / "failed.json", failed)


def unit_items(folder: UnitFolder) -> tuple[dict[str, Any], list[int], dict[str, list[int]]]:
    """Read a finished unit: columns of items, number right of each, and the same by control."""
    probe = folder.path / PROBE_FILE
    if probe.is_file():
        content = folder.read(probe)
        return {name: content[name] for name in ITEM_COLUMNS}, content["right"], {}
    lines = (folder.path / ANSWERS_FILE).read_text(encoding="utf-8").splitlines()
    answers = sorted(map(json.loads, lines), key=lambda answer: answer["id"])
    items: dict[str, Any] = {name: [a[name] for a in answers] for name in ITEM_COLUMNS[:3]}
    items["totals"] = [1] * len(answers)
    right = [int(answer["right"]) for answer in answers]
    names: Sequence[str] = list(answers[0]["controls"]) if answers else ()
    return items, right, {n: [int(answer["controls"][n]) for answer in answers] for n in names}


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _compact(content: Mapping[str, Any]) -> str:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False)


def _write(file: Path, content: Mapping[str, Any]) -> None:
    with atomic_file(file) as part:
        part.write_text(_compact(content) + "\n", encoding="utf-8")
