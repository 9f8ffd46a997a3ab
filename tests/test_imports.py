"""Import order of packages; `test_light_imports.py` tests what is not imported at all."""

import ast
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mgm"
# Layers of packages: each may import from the layers above it in this list, and not within itself.
PACKAGE_LAYERS = (
    ("errors",),
    ("atomic", "file_digest"),
    ("model",),
    ("data",),
    ("auto", "convert", "engine"),
    ("eval", "serve", "train"),
    ("__main__",),
)
# The same for the subpackages and files of each package.
LAYERS = {
    "model": (
        ("labels",),
        ("families", "files", "ops"),
        ("config_checks",),
        ("quantization", "vision"),
        ("published_layout", "text_config"),
        ("configuration_mgm",),
        ("checkpoint", "generation", "image_features", "multimodal_embeddings"),
        ("modeling_mgm",),
        ("loading",),
    ),
    "data": (
        ("images", "text"),
        ("image_processing_mgm", "processor_inputs", "sources"),
        ("processor_loading",),
        ("processing_mgm",),
        ("datasets", "doctor", "model_card", "processor_match"),
        ("layout_conversion",),
    ),
    "engine": (
        ("core", "device", "kv_cache", "vllm"),
        ("grammar", "inputs", "scheduler"),
        ("engine_thread", "request_preparer", "saving"),
        ("engine_core",),
        ("stream",),
        ("engine",),
        ("attribution", "loading"),
    ),
    "serve": (
        ("common", "limits", "openai"),
        ("http",),
        ("tools",),
        ("router", "terminal", "web", "worker"),
        ("cli", "controller", "gradio_web_server", "model_worker"),
    ),
    "eval": (
        ("download", "harness", "statistics"),
        ("metrics",),
        ("lmms", "tasks"),
        ("benchmarks", "report"),
        ("compare",),
        ("registry",),
        ("plan",),
        ("ablation",),
        ("options",),
        ("__main__", "prepare"),
    ),
    "train": (
        ("distributed",),
        ("args",),
        ("checkpointing", "lora", "optim"),
        ("estimate",),
        ("callbacks",),
        ("checkpointing_trainer", "data_setup", "launch", "merge", "model_setup"),
        ("trainer",),
        ("run",),
        ("__main__",),
        ("train_mem",),
    ),
}
MAX_FILES = 9  # files per folder, without __init__.py
MANY_FILES = {"eval/benchmarks"}  # one file for each benchmark
# Packages of servers, which need these libraries; others import them in functions.
SERVERS = (
    *(f"serve/http/{name}.py" for name in ("concurrency_limit", "connection", "disconnect")),
    *(f"serve/http/{name}.py" for name in ("middleware", "openapi", "server")),
    *(f"serve/openai/{name}.py" for name in ("errors", "messages", "protocol")),
    *(f"serve/limits/{name}.py" for name in ("body_memory", "bounded_response")),
    "serve/limits/request_parser.py",
    *(f"serve/worker/{name}.py" for name in ("app", "image_download", "image_fetcher")),
    *(f"serve/worker/{name}.py" for name in ("legacy_stream", "main", "metrics", "streaming")),
    "serve/worker/worker.py",
    *(f"serve/router/{name}.py" for name in ("app", "health_check", "main", "registration")),
    *(f"serve/router/{name}.py" for name in ("relay", "relay_response")),
    *(f"serve/router/{name}.py" for name in ("worker_client", "worker_registry")),
    *(f"serve/web/{name}.py" for name in ("main", "page", "handlers", "client", "state")),
    *(f"serve/web/{name}.py" for name in ("attribution_panel", "moderation")),
)
OF_SERVERS = {
    *("aiohttp", "anyio", "fastapi", "gradio", "h11", "prometheus_client", "pydantic"),
    *("pydantic_core", "starlette", "uvicorn", "yarl"),
}
# Files that only other programs import.
OF_OTHERS = {
    "engine/vllm/model.py": "vllm",
    "engine/vllm/tokenizer.py": "vllm",
    "eval/lmms/model.py": "lmms_eval",
}
MODULE_OF = {"pillow": "PIL"}  # distributions that are imported under another name


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        yield file.relative_to(PACKAGE), ast.parse(file.read_text(encoding="utf-8"))


def name_of(file: Path) -> str:
    """The full name of a module."""
    return ".".join(("mgm", *file.with_suffix("").parts)).removesuffix(".__init__")


def imported(node: ast.AST) -> list[str]:
    """Full names of the modules that a statement imports."""
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


def imports() -> Iterator[tuple[str, str, str]]:
    """Imports between our modules, with their positions."""
    modules = {name_of(file) for file, _ in sources()}
    for file, tree in sources():
        for node in ast.walk(tree):
            for name in imported(node):
                while name.startswith("mgm.") and name not in modules:
                    name = name.rpartition(".")[0]
                if name.startswith("mgm."):
                    yield name_of(file), name, f"{file}:{node.lineno}"


def check_order(layers: tuple[tuple[str, ...], ...], above: str, below: str, where: str) -> None:
    height = {name: row for row, names in enumerate(layers) for name in names}
    for name in (above, below):
        assert name in height, f"{where}: no layer has {name}"
    assert above == below or height[above] > height[below], f"{where}: {above} imports {below}"


def test_packages_import_downwards():
    seen = set()
    for importer, module, where in imports():
        if importer == "mgm":
            continue  # the public interface imports from every package
        check_order(PACKAGE_LAYERS, importer.split(".")[1], module.split(".")[1], where)
        seen.add(importer.split(".")[1])
    assert set(LAYERS) <= seen


@pytest.mark.parametrize("package", LAYERS)
def test_subpackages_import_downwards(package):
    seen = set()
    for importer, module, where in imports():
        above, below = importer.split("."), module.split(".")
        if above[:2] == below[:2] == ["mgm", package] and len(below) > 2:
            check_order(LAYERS[package], above[2], below[2], where)
            seen |= {above[2], below[2]}
    there = {path.stem for path in (PACKAGE / package).iterdir() if path.suffix in ("", ".py")}
    assert there - {"__init__", "__pycache__", "texts"} == {
        n for row in LAYERS[package] for n in row
    }
    assert seen


def test_no_import_cycles():
    graph: dict[str, set[str]] = {}
    for importer, module, _ in imports():
        if importer != module:
            graph.setdefault(importer, set()).add(module)
    list(TopologicalSorter(graph).static_order())  # raises a CycleError, which names the modules


def test_files_per_folder():
    files = Counter(file.parent.as_posix() for file, _ in sources() if file.stem != "__init__")
    many = {folder for folder, count in files.items() if count > MAX_FILES}
    assert many == MANY_FILES
    assert all((PACKAGE / folder / "__init__.py").is_file() for folder in files)


def test_optional_packages_are_imported_lazily():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.match(r"[\w.-]+", line)[0].lower() for line in project["dependencies"]]
    allowed = {MODULE_OF.get(name, name.replace("-", "_")) for name in names}
    allowed |= {*sys.stdlib_module_names, "mgm"}
    for file, tree in sources():
        server = file.as_posix() in SERVERS
        for node in at_import(tree.body):
            for name in imported(node):
                top = name.split(".")[0]
                fine = top in allowed or (server and top in OF_SERVERS)
                fine = fine or top == OF_OTHERS.get(file.as_posix())
                assert fine, f"{file}:{node.lineno} imports {top}, which is optional"
                path = name.replace(".", "/").removeprefix("mgm/") + ".py"
                assert server or path not in SERVERS, f"{file}:{node.lineno} imports {name}"
                assert path not in OF_OTHERS, f"{file}:{node.lineno} imports {name}"


def test_every_lazy_name_resolves():
    import mgm

    assert set(mgm.__all__) == mgm._MODULES.keys()
    for name in mgm.__all__:
        assert getattr(mgm, name).__name__ == name
        assert getattr(mgm, name).__module__ == mgm._MODULES[name]
    assert set(mgm.__all__) <= set(dir(mgm))
    with pytest.raises(AttributeError, match="Engin'"):
        _ = mgm.Engin
    with pytest.raises(ImportError, match="Engin'"):
        from mgm import Engin  # noqa: F401


def test_type_checkers_see_every_name():
    import mgm

    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    shown = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert shown == mgm._MODULES
