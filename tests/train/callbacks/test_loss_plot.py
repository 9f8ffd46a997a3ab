"""Loss plots: names of data sets, and errors that do not end a run."""

import logging
from typing import Any

import pytest

from mgm.train.callbacks import loss_plot
from mgm.train.callbacks.loss_plot import PLOT_FILE, plot_losses

pytest.importorskip("matplotlib")
NAMES = ("cost_$5_{_$", "$", "a$b$c", "_hidden", r"\frac{", "a\nb", "é 中", "<b>&", "%d", "")


def history(*names: str) -> list[dict[str, Any]]:
    return [
        {"step": step, "loss": 1.0 / step, "eval_loss": 1.0}
        | {f"loss/{name}": 1.0 / step for name in names}
        for step in range(1, 4)
    ]


def test_names_are_not_interpreted(tmp_path, caplog):
    figure = loss_plot._figure(history(*NAMES))
    legend = figure.axes[0].get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert sorted(labels) == sorted([*NAMES, "training", "validation"])
    plot_losses(history(*NAMES), tmp_path)
    assert (tmp_path / PLOT_FILE).read_bytes().startswith(b"\x89PNG")
    assert not [entry for entry in caplog.records if entry.name.startswith("mgm")]


@pytest.mark.parametrize("fault", [ValueError("no\nfont"), RuntimeError("x"), MemoryError("x")])
def test_error_is_a_warning(tmp_path, caplog, monkeypatch, fault):
    from matplotlib.figure import Figure

    def savefig(*_: Any, **__: Any) -> None:
        raise fault

    monkeypatch.setattr(Figure, "savefig", savefig)
    plot_losses(history("a"), tmp_path)
    (entry,) = caplog.records
    assert entry.levelno == logging.WARNING
    assert entry.getMessage().startswith("curves.png is not plotted (")
    assert not list(tmp_path.iterdir())


def test_unwritable_folder_is_a_warning(tmp_path, caplog):
    plot_losses(history("a"), tmp_path / "gone" / "file")
    (tmp_path / "file").touch()
    plot_losses(history("a"), tmp_path / "file")
    assert "is not plotted" in caplog.messages[-1]
