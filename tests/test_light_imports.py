"""Programs import heavy packages only when needed: counts modules in fresh processes."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.process
ROOT = Path(__file__).resolve().parents[1]
NETWORK = {"torch", "transformers", "timm", "tokenizers", "accelerate", "peft"}
SERVERS = {"fastapi", "gradio", "uvicorn", "aiohttp", "starlette", "pydantic"}
IMAGES = {"numpy", "PIL"}
# Programs, and what they must not import to print their help.
HELP = {
    "mgm": NETWORK | SERVERS | IMAGES,
    "mgm.convert": NETWORK | SERVERS | IMAGES,
    "mgm.data.doctor": NETWORK | SERVERS,
    "mgm.eval": NETWORK | SERVERS,
    "mgm.eval.prepare": NETWORK | SERVERS,
    "mgm.serve.cli": NETWORK | SERVERS,
    "mgm.serve.controller": NETWORK | IMAGES | {"gradio"},
    "mgm.serve.gradio_web_server": NETWORK,
    "mgm.serve.model_worker": NETWORK | {"gradio"},
    "mgm.train": SERVERS | {"timm", "mgm.train.run", "mgm.model.modeling_mgm"},
    "mgm.train.launch": NETWORK | SERVERS | IMAGES,
    "mgm.train.merge": NETWORK | SERVERS | IMAGES,
}
# The modules behind them, which are imported to run; see above.
LIGHT_MODULES = {
    "mgm": NETWORK | SERVERS | IMAGES | {"argparse", "mgm.errors"},
    "mgm.serve.router.main": NETWORK | IMAGES | {"gradio"},
    "mgm.serve.web.main": NETWORK,
    "mgm.engine.vllm.plugin": NETWORK,
    "mgm.eval.lmms.plugin": NETWORK,
}


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `code`."""
    tail = "import json, sys; print('\\n' + json.dumps(list(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tail}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return set(json.loads(ended.stdout.splitlines()[-1]))


def help_of(program: str) -> str:
    """Code that prints a program's help as `python -m` does."""
    return (
        f"import runpy, sys\nsys.argv = [{program!r}, '--help']\n"
        f"try:\n    runpy.run_module({program!r}, run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n    assert not end.code"
    )


def quick(one: str, others: Iterable[str]) -> list[Any]:
    """Test parameters, of which only the first is in the default tier."""
    slow = [pytest.param(other, marks=pytest.mark.slow) for other in others if other != one]
    return [one, *slow]


@pytest.mark.parametrize("module", quick("mgm", LIGHT_MODULES))
def test_importing_loads_nothing_heavy(module):
    assert not loaded_by(f"import {module}") & LIGHT_MODULES[module]


@pytest.mark.parametrize("program", quick("mgm.serve.controller", HELP))
def test_help_loads_nothing_heavy(program):
    assert not loaded_by(help_of(program)) & HELP[program]


def test_every_program_is_listed():
    programs = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for file in (ROOT / "mgm").rglob("*.py")
        if '\nif __name__ == "__main__":' in file.read_text(encoding="utf-8")
    }
    assert programs - {"mgm.engine.grammar.check", "mgm.train.train_mem"} == HELP.keys()
