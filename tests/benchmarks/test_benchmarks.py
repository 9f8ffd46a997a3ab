"""Benchmark programs at tiny sizes, whose measurements are meaningless."""

import json
import time

import pytest
import torch
from PIL import Image

from benchmarks import gpu, loss, preprocess, train, vision
from benchmarks.harness import LIMIT, OURS, PUBLISHED, Case, machine, measure, report, settings


def small(*arguments):
    return settings("", ["--small", "--repeats", "3", "--threads", "1", *arguments])


def test_measurements():
    left, right = torch.ones(64, 128), torch.ones(128, 32)
    calls = []

    def ours():
        calls.append(OURS)
        return left @ right

    def published():
        calls.append(PUBLISHED)
        time.sleep(0.02)
        return torch.empty(2**20) + torch.empty(2**18)[0]  # 9 MiB at a time

    case = Case("product", {OURS: ours, PUBLISHED: published}, 1e-7, min_bytes=4_000_000)
    properties = {"TFLOP/s": 1.0, "GB/s": 1.0}
    by_form = {figure.form: figure for figure in measure(case, small(), properties)}
    assert calls[-6:] == [OURS, PUBLISHED] * 3  # in turn
    assert by_form[OURS].flops == 2 * 64 * 128 * 32
    assert by_form[OURS].peak_bytes == 64 * 32 * 4
    assert by_form[PUBLISHED].peak_bytes == 9 * 2**20
    assert by_form[PUBLISHED].seconds >= 0.02
    assert by_form[PUBLISHED].times_faster == 1
    ratio = by_form[PUBLISHED].seconds / by_form[OURS].seconds
    assert by_form[OURS].times_faster == pytest.approx(ratio)
    assert by_form[LIMIT].seconds == pytest.approx(0.004)  # of the bytes
    assert (by_form[OURS].difference, by_form[PUBLISHED].difference) == (1e-7, None)


@pytest.mark.parametrize(
    ("program", "only", "cases"),
    [
        pytest.param(vision, ("336/768",), 5, marks=pytest.mark.slow),
        pytest.param(vision, ("HD", "--images", "2"), 5, marks=pytest.mark.slow),
        (loss, (), 2),
        (preprocess, (), 4),
        pytest.param(train, (), 1, marks=pytest.mark.slow),
    ],
)
def test_results_agree_and_files_are_written(program, only, cases, tmp_path, capsys):
    options = ("--only", *only) if only else ()
    chosen = small(*options, "--out", str(tmp_path / "deep" / "result"))
    figures = report("title", program.cases(chosen), chosen)
    assert len({figure.case for figure in figures}) == cases
    ours = [figure for figure in figures if figure.form == OURS]
    assert len(ours) == cases
    assert all(figure.difference < 1e-5 for figure in ours)
    written = json.loads((tmp_path / "deep" / "result.json").read_text())
    assert written["machine"].keys() == machine(chosen).keys()
    assert len(written["figures"]) == len(figures)
    with Image.open(tmp_path / "deep" / "result.png") as chart:
        assert min(chart.size) > 150
    table = capsys.readouterr().out
    assert all(figure.case in table for figure in ours)


@pytest.mark.slow
def test_gpu_program_stops_in_time(monkeypatch, capsys):
    shown = settings("", ["--small", "--repeats", "1", "--dtype", "bfloat16"])
    names = [case.name for case in gpu.cases(shown, seconds=600)]
    assert len(names) == 12
    assert names[0] == "mining 336/768, forward, batch 1"
    assert [case.name for case in gpu.cases(shown, seconds=0)] == names[:1]
    assert "time is up" in capsys.readouterr().out


def test_invalid_options(capsys):
    for wrong in (["--repeats", "0"], ["--device", "tpu"], ["--dtype", "int8"]):
        with pytest.raises(SystemExit):
            settings("", wrong)
    chosen = small("--only", "no such case")
    with pytest.raises(SystemExit, match="no case's name contains no such case"):
        report("title", loss.cases(chosen), chosen)
