"""The command `mgm`."""

import importlib.util
import sys
import tomllib
from pathlib import Path

import pytest

from mgm import __version__
from mgm.__main__ import COMMANDS, main
from mgm.errors import MGMError


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments: str) -> tuple[int | None, str]:
        monkeypatch.setattr(sys, "argv", ["mgm", *arguments])
        return main(), capsys.readouterr().out

    return call


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_the_commands(run, arguments):
    status, text = run(*arguments)
    assert status == 0
    for name, (module, _) in COMMANDS.items():
        assert f"\n  {name} " in text
        assert f"({module})" in text


def test_version(run):
    assert run("--version") == (0, f"mgm {__version__}\n")


def test_unknown_commands(run):
    with pytest.raises(MGMError, match="trian: no such command; choose from train, launch"):
        run("trian")


def test_command_runs_its_program(run):
    with pytest.raises(SystemExit, match="0"):
        run("convert", "--help")
    assert sys.argv == ["mgm convert", "--help"]


def test_all_programs_exist():
    for module, _ in COMMANDS.values():
        assert importlib.util.find_spec(module), module
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["project"]["scripts"] == {"mgm": "mgm.__main__:program"}
