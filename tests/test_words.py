"""Names and prose use the field's words; a name has one meaning; docstrings are not empty."""

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mgm", *(f"mgm/{one}" for one in ("data", "engine", "eval", "model", "serve", "train")))
FOLDERS = (*PACKAGES, "benchmarks", "playground", "scripts", "tests")

# Home-made words, and what a reader of vLLM, transformers, PyTorch and lmms-eval searches for.
IN_NAMES = {
    "asked": "request, prompts, questions",
    "begun": "start_time",
    "facts": "metadata, settings, properties, fingerprint",
    "found": "match, result, or what it is",
    "heard": "partial_response",
    "least": "min",
    "most": "max",
    "named": "by_name, label, or what it is",
    "piece": "chunk, token, part",
    "pieces": "chunks, tokens, parts",
    "place": "index, slot, position, device, path, column",
    "places": "indices, slots, positions, devices, paths, columns",
    "room": "budget, remaining_tokens, capacity",
    "said": "text, reply",
    "told": "notified, logged",
}
OF_LIBRARIES = {
    "FileNotFoundError",
    "LocalEntryNotFoundError",
    "ModuleNotFoundError",
    "NotFoundError",
    "NamedTemporaryFile",
    "NamedTuple",
    "PackageNotFoundError",
    "SentencePieceProcessor",
    "WordPiece",
    "get_piece_size",
    "id_to_piece",
    "model_not_found",  # OpenAI's code of the error
    "most_common",
    "named_buffers",
    "named_children",
    "named_modules",
    "named_parameters",
    "piece_size",
    "piece_to_id",
}
PHRASES = re.compile("at_most|at_least|in_place|least_recently")  # plain English
# In comments, docstrings, messages and --help.
IN_PROSE = re.compile(
    r"\b(begun|facts?|heard|luck|pieces?|rooms?|rubbish|told"
    r"|(?<!in )(?<!their )(?<!its )(?<!decimal )places?(?! of))\b",
    re.IGNORECASE,
)
# What every module may have under the same name.
OF_ANY_MODULE = {"logger", "main", "parse_args", "register"}  # `parse_args` of each program
EMPTY = re.compile(r"(See|As|Like) [\w`.'()]+\.?$")


@cache
def files(folder: str) -> list[tuple[Path, ast.Module, str]]:
    """Parsed files of a folder, without this one; of `mgm` without its packages."""
    paths = (ROOT / folder).glob("*.py") if folder == "mgm" else (ROOT / folder).rglob("*.py")
    return [
        (file, ast.parse(source), source)
        for file in sorted(paths)
        if file != Path(__file__)
        for source in [file.read_text(encoding="utf-8")]
    ]


def names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names that code defines or uses, with their lines."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "name", "arg"):
            name = getattr(node, field, None)
            if isinstance(name, str) and not isinstance(node, ast.alias):
                yield name, getattr(node, "lineno", 0)


def words(name: str) -> list[str]:
    """The words of a name in snake case or camel case."""
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower().split("_")


def where(file: Path, line: int) -> str:
    return f"{file.relative_to(ROOT)}:{line}"


def prose(tree: ast.Module, source: str) -> Iterator[tuple[str, int]]:
    """Comments and strings of a file, with their lines."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string, token.start[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value, node.lineno


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_are_the_fields_words(folder):
    wrong = [
        f"{where(file, line)}: {name} ({IN_NAMES[word]})"
        for file, tree, _ in files(folder)
        for name, line in names(tree)
        if name not in OF_LIBRARIES
        for word in words(PHRASES.sub("", name))
        if word in IN_NAMES
    ]
    assert not wrong, "say it in the words of vLLM, transformers, PyTorch or lmms-eval"


@pytest.mark.parametrize("folder", FOLDERS)
def test_prose_is_plain_english(folder):
    wrong = [
        f"{where(file, line)}: {match[0]}"
        for file, tree, source in files(folder)
        for text, line in prose(tree, source)
        if (match := IN_PROSE.search(text))
    ]
    assert not wrong, "write what an engineer of the field would write"


@pytest.mark.parametrize("folder", FOLDERS)
def test_docstrings_say_something(folder):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
    wrong = [
        f"{where(file, getattr(node, 'lineno', 1))}: {text}"
        for file, tree, _ in files(folder)
        for node in ast.walk(tree)
        if isinstance(node, kinds)
        and (text := ast.get_docstring(node))
        and (EMPTY.fullmatch(text) or len(text.split()) < 3)
    ]
    assert not wrong, "say what it is, or leave it out where the name says all"


def test_one_name_means_one_thing():
    homes = defaultdict(set)
    for package in PACKAGES:
        for file, tree, _ in files(package):
            for node in tree.body:
                for name in defined(node):
                    homes[name].add(str(file.relative_to(ROOT)))
    several = {
        name: sorted(modules)
        for name, modules in homes.items()
        if len(modules) > 1 and not name.startswith("_") and name not in OF_ANY_MODULE
    }
    assert not several, "import it where it means the same; else give it a name of its own"


def defined(node: ast.stmt) -> Iterator[str]:
    """Names that a statement defines, without type variables."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        value = node.value.func if isinstance(node.value, ast.Call) else None
        if isinstance(value, ast.Name) and value.id in ("TypeVar", "ParamSpec"):
            return
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))
