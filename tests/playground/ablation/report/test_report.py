"""A report of made-up results whose differences are known."""

import json

import numpy as np
import pytest

from mgm.errors import MGMError
from playground.ablation.execution.runner import unit_folder
from playground.ablation.report.report import write_report
from playground.ablation.study import read_study
from tests.playground.ablation.test_study import STUDY

HEIGHTS = (4.0, 5.0, 7.0, 10.0, 30.0, 44.0, None)
COST = {"parameters": 1_234_567, "flops": 1.5e9, "parts": {}, "image_tokens": 144}


@pytest.fixture
def study(tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(STUDY)
    return read_study(file)


def finish(study, unit, out, share, images=40):
    """Write what a finished unit leaves: `share` of each height's questions are right."""
    folder = unit_folder(out, unit)
    folder.path.mkdir(parents=True)
    rng = np.random.default_rng([unit.seed, unit.arm.name == "A1"])
    answers = [
        {
            "id": f"{image}/{number}",
            "image": f"{image}",
            "kind": "sign/line",
            "height": height,
            "right": bool(rng.random() < share(unit, height)),
            "controls": {"shift": False} if unit.arm.name == "A1" else {},
        }
        for image in range(images)
        for number, height in enumerate(HEIGHTS)
    ]
    (folder.path / "answers.jsonl").write_text("\n".join(map(json.dumps, answers)))
    settings = study.unit_config(unit) | {"commit": "c" * 40, "paths": {"data": "/secret"}}
    content = {"settings": settings, "phases": {"stage_1": 360.0}, "cost": COST, "starts": 1}
    folder.write(folder.result_file, content)


def small_text_needs_a1(unit, height):
    return 0.9 if unit.arm.name == "A1" or height is None or height >= 8 else 0.2


def test_report_of_all_units(study, tmp_path):
    for unit in study.units:
        finish(study, unit, tmp_path / "out", small_text_needs_a1)
    results = tmp_path / "results"
    text = write_report(study, tmp_path / "out", results)
    content = json.loads((results / "report.json").read_text())
    (family,) = content["differences"]
    assert family["seeds"] == [1, 2]
    assert family["is_complete"]
    small, large = family["rivals"]["A2"]["4-8"], family["rivals"]["A2"]["28-44"]
    assert small["value"] == pytest.approx(70, abs=12)
    assert small["questions"] == 3 * 40
    assert small["interval"][0] > 0
    assert large["questions"] == 2 * 40  # 44 is in the last bin
    assert large["interval"][0] < 0 < large["interval"][1]
    assert content["scores"]["S"]["A1"]["no text"]["questions"] == 40
    shift, full = content["controls"]["S/A1"]["shift"]["all"], content["scores"]["S"]["A1"]["all"]
    assert shift["value"] == pytest.approx(-full["value"])
    assert "**better**" in text
    assert "1,234,567" in text
    assert "S: 4 of 4; 0.4 CPU hours" in text
    assert (results / "scores_S.png").read_bytes().startswith(b"\x89PNG")
    assert (results / "differences_1.png").read_bytes().startswith(b"\x89PNG")
    assert not any("/secret" in file.read_text() for file in results.rglob("*.json"))


def test_report_from_the_collected_files_alone(study, tmp_path):
    for unit in study.units:
        finish(study, unit, tmp_path / "out", small_text_needs_a1)
    results = tmp_path / "results"
    text = write_report(study, tmp_path / "out", results)
    before = {file: file.read_bytes() for file in results.rglob("*") if file.is_file()}
    assert write_report(study, tmp_path / "elsewhere", results) == text
    assert {file: file.read_bytes() for file in results.rglob("*") if file.is_file()} == before


def test_no_verdict_before_all_seeds_have_finished(study, tmp_path):
    for unit in study.units[:3]:  # A2 lacks its second seed
        finish(study, unit, tmp_path / "out", small_text_needs_a1)
    text = write_report(study, tmp_path / "out", tmp_path / "results")
    assert "paired by 1 of 2 seeds" in text
    assert "incomplete" in text
    assert "**better**" not in text


def test_failed_units_and_other_settings_are_listed(study, tmp_path):
    for unit in study.units[:2]:
        finish(study, unit, tmp_path / "out", small_text_needs_a1)
    failed = unit_folder(tmp_path / "out", study.units[2])
    failed.path.mkdir(parents=True)
    failed.write(failed.failure_file, {"reason": "exit status 1", "log": ["loss is nan"]})
    text = write_report(study, tmp_path / "out", tmp_path / "results")
    assert "- S/A2/seed-1: exit status 1\n  `loss is nan`" in text
    assert "Without results: A2" in text
    file = tmp_path / "study.toml"
    file.write_text(STUDY.replace("stage_1 = { max_steps = 2 }", "stage_1 = { max_steps = 3 }"))
    text = write_report(read_study(file), tmp_path / "out", tmp_path / "results")
    assert "because the settings have changed: S/A1/seed-1, S/A1/seed-2" in text


def test_units_with_other_questions_are_not_compared(study, tmp_path):
    for number, unit in enumerate(study.units):
        finish(study, unit, tmp_path / "out", small_text_needs_a1, images=40 + (number == 2))
    with pytest.raises(MGMError, match="A2: were evaluated on different questions"):
        write_report(study, tmp_path / "out", tmp_path / "results")


def test_nothing_to_report(study, tmp_path):
    with pytest.raises(MGMError, match="no unit has finished"):
        write_report(study, tmp_path / "out", tmp_path / "results")
