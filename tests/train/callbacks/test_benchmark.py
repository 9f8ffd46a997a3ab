"""Evaluation of checkpoints on benchmarks."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file

from mgm.errors import MGMError
from mgm.train.__main__ import run_training
from mgm.train.callbacks.benchmark import BenchmarkCallback
from tests.eval.fixtures import make_all
from tests.preloaded import PYTHON
from tests.train.conftest import words
from tests.train.test_processes import train_in_processes

NAME = "benchmark/gqa:testdev"


@pytest.fixture(autouse=True)
def _program(monkeypatch):
    monkeypatch.setattr(sys, "executable", PYTHON)


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    return make_all(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture
def flags(stage2_flags, benchmarks, tmp_path):
    return stage2_flags | {
        "output_dir": tmp_path / "run",
        "max_steps": 4,
        "eval_benchmarks": "gqa,seed",
        "eval_benchmark_dir": benchmarks,
    }


def measured(folder) -> dict[int, float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry[NAME] for entry in history if NAME in entry}


@pytest.mark.process
def test_every_checkpoint_is_evaluated(flags, tmp_path):
    run_training(words(flags))
    assert measured(tmp_path / "run") == {2: 0.0, 4: 0.0}
    answers = tmp_path / "run" / "eval" / "checkpoint-2" / "gqa" / "testdev" / "paper"
    assert json.loads((answers / "score.json").read_text())["questions"] == 1
    # Training is the same as without.
    plain = {name: value for name, value in flags.items() if not name.startswith("eval_")}
    run_training(words(plain | {"output_dir": tmp_path / "plain"}))
    ours, theirs = (load_file(tmp_path / n / "model.safetensors") for n in ("run", "plain"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_in_several_processes(flags, tmp_path):
    """One of them evaluates; its subprocess is not taken for a rank of the run."""
    train_in_processes(flags | {"max_steps": 2, "per_device_train_batch_size": 2})
    assert measured(tmp_path / "run") == {2: 0.0}


def test_missing_data_is_an_error_before_training(flags, benchmarks, tmp_path):
    with pytest.raises(MGMError, match=r"--eval_benchmarks: unknown benchmark 'gqq'"):
        run_training(words(flags | {"eval_benchmarks": "gqq"}))
    with pytest.raises(MGMError, match=r"--eval_benchmarks: .*is missing.*; python -m mgm\.eval"):
        run_training(words(flags | {"eval_benchmark_dir": tmp_path / "nowhere"}))
    with pytest.raises(MGMError, match="--save_strategy no writes none"):
        run_training(words(flags | {"save_strategy": "no"}))
    with pytest.raises(MGMError, match="--eval_benchmark_limit -1: give a number from 0"):
        run_training(words(flags | {"eval_benchmark_limit": -1}))


def test_failed_evaluation_does_not_end_the_run(flags, tmp_path, monkeypatch, caplog):
    """The questions are missing for the first checkpoint, and back for the second."""
    make_all(tmp_path)
    kept = BenchmarkCallback.on_save

    def on_save(self, args, state, control, **kwargs):
        folder = tmp_path / "gqa"
        if state.global_step == 2:
            shutil.move(folder, tmp_path / "away")
        kept(self, args, state, control, **kwargs)
        if state.global_step == 2:
            shutil.move(tmp_path / "away", folder)

    monkeypatch.setattr(BenchmarkCallback, "on_save", on_save)
    run_training(words(flags | {"eval_benchmark_dir": tmp_path}))
    assert list(measured(tmp_path / "run")) == [4]
    assert "checkpoint-2 was not evaluated: " in caplog.text
    assert "is missing" in caplog.text
