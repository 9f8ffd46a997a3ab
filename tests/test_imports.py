"""Who may import whom, and what `import mgm` costs."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.tiny_model import build

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mgm"
BASE = {"errors", "atomic"}
ALLOWED = {  # the rooms that a room may import, besides itself and the base
    "model": set(),
    "data": {"model"},
    "engine": {"data", "model"},
    "serve": {"engine", "data", "model"},
    "eval": {"engine", "data", "model"},
    "train": {"engine", "data", "model"},
}
COMMANDS = {"convert.py": {"data"}}  # programs, which put rooms together; nobody imports them
# Files of servers, which these packages are for; others import them where they start a server.
SERVERS = {
    f"serve/{name}.py"
    for name in (
        *("admission", "application", "metrics", "running", "worker"),
        *("worker_program", "controller_program", "page_program"),
        *("page", "page_actions", "page_client", "mined_panel", "moderation"),
    )
}
OF_SERVERS = {"aiohttp", "anyio", "fastapi", "gradio", "prometheus_client", "starlette", "uvicorn"}
# Files that other programs import, and nobody here.
OF_OTHERS = {
    "engine/vllm/model.py": "vllm",
    "engine/vllm/tokenizer.py": "vllm",
    "eval/lmms/model.py": "lmms_eval",
}
MODULE_OF = {"pillow": "PIL"}  # where a distribution is imported under another name


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        yield file.relative_to(PACKAGE), ast.parse(file.read_text(encoding="utf-8"))


def room_of(file: Path) -> str:
    return file.parts[0] if len(file.parts) > 1 else file.stem


def imported(node: ast.AST) -> list[str]:
    """The modules that a statement imports, by their full names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide the direction"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from at_import(node.orelse)
            continue
        yield node
        for field in ("body", "orelse", "finalbody"):
            yield from at_import(getattr(node, field, []))
        for handler in getattr(node, "handlers", []):
            yield from at_import(handler.body)


def test_imports_point_downwards():
    seen = set()
    for file, tree in sources():
        room = room_of(file)
        if room == "__init__":
            continue  # the front door shows what all rooms offer
        assert room in {*ALLOWED, *BASE}, f"{file}: a room that no rule knows"
        allowed = {*BASE, room, *ALLOWED[room]} if room in ALLOWED else BASE
        allowed = allowed | COMMANDS.get(file.as_posix(), set())
        for node in ast.walk(tree):
            for name in imported(node):
                assert name.replace(".", "/").removeprefix("mgm/") + ".py" not in COMMANDS
                if name.startswith("mgm."):
                    seen.add(room)
                    assert name.split(".")[1] in allowed, f"{file}:{node.lineno} imports {name}"
    assert {"data", "engine", "serve"} <= seen


def test_only_base_dependencies_are_imported_unasked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.match(r"[\w.-]+", line)[0].lower() for line in project["dependencies"]]
    known = {MODULE_OF.get(name, name.replace("-", "_")) for name in names}
    known |= {*sys.stdlib_module_names, "mgm"}
    for file, tree in sources():
        server = file.as_posix() in SERVERS
        for node in at_import(tree.body):
            for name in imported(node):
                top = name.split(".")[0]
                fine = top in known or (server and top in OF_SERVERS)
                fine = fine or top == OF_OTHERS.get(file.as_posix())
                assert fine, f"{file}:{node.lineno} imports {top}, which is optional"
                path = name.replace(".", "/").removeprefix("mgm/") + ".py"
                assert server or path not in SERVERS, f"{file}:{node.lineno} imports {name}"
                assert path not in OF_OTHERS, f"{file}:{node.lineno} imports {name}"


def run_python(*lines: str) -> str:
    """What a fresh interpreter that takes warnings for errors prints."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return ended.stdout


def test_every_name_can_be_had():
    import mgm

    for name in mgm.__all__:
        assert getattr(mgm, name).__name__ == name


def test_auto_classes_know_our_models(tmp_path):
    folder = build(tmp_path / "tiny")
    printed = run_python(
        "import mgm, warnings",
        "warnings.simplefilter('default')",  # those of other libraries are theirs
        "from transformers import AutoConfig, AutoProcessor, AutoModelForImageTextToText",
        "from transformers import AutoImageProcessor",
        "from transformers.utils import logging; logging.disable_progress_bar()",
        f"folder = {str(folder)!r}",
        "for auto in (AutoConfig, AutoImageProcessor, AutoProcessor, AutoModelForImageTextToText):",
        "    print(type(auto.from_pretrained(folder)).__name__)",
    )
    assert printed.split() == [
        "MGMConfig",
        "MGMImageProcessor",
        "MGMProcessor",
        "MGMForConditionalGeneration",
    ]
