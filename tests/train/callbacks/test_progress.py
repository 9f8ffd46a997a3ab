"""Progress: a bar in a terminal, lines elsewhere."""

import io
import logging
import sys
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from mgm.train.callbacks.progress import ProgressBarCallback


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(monkeypatch, caplog):
    """Run four steps, of which the second and the fourth log a loss."""
    caplog.set_level(logging.INFO, logger="mgm")

    def go(stream: io.StringIO, disable_tqdm: bool = False) -> tuple[str, list[str]]:
        monkeypatch.setattr(sys, "stderr", stream)
        progress, arguments = ProgressBarCallback(), SimpleNamespace(disable_tqdm=disable_tqdm)
        state, control = TrainerState(max_steps=4), TrainerControl()
        progress.on_train_begin(arguments, state, control)
        for step in range(1, 5):
            state.global_step = step
            progress.on_step_end(arguments, state, control)
            if step % 2 == 0:
                logs = {"loss": 1 / step, "learning_rate": 1e-3}
                logs |= {"tokens_per_second": 1234.5, "samples_per_second": 6.78}
                progress.on_log(arguments, state, control, logs=logs)
        progress.on_log(arguments, state, control, logs={"train_runtime": 1.0})
        progress.close()
        return stream.getvalue(), caplog.messages

    return go


def test_progress_bar_in_a_terminal(shown) -> None:
    text, lines = shown(Terminal())
    assert "4/4" in text
    assert "loss 0.250, 1,234 tokens/s, 6.8 samples/s" in text
    assert text.endswith("\n")
    assert lines == []


@pytest.mark.parametrize(("stream", "disabled"), [(io.StringIO(), False), (Terminal(), True)])
def test_lines_without_a_terminal(shown, stream, disabled) -> None:
    text, lines = shown(stream, disabled)
    assert text == ""
    assert lines == [
        "step 2 of 4: loss 0.500, learning rate 1.0e-03, 1,234 tokens/s, 6.8 samples/s",
        "step 4 of 4: loss 0.250, learning rate 1.0e-03, 1,234 tokens/s, 6.8 samples/s",
    ]
