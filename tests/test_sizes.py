"""Limits on the length of files and functions."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "mgm"
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60


def test_files_are_short():
    lengths = {
        file.relative_to(PACKAGE).as_posix(): len(file.read_text(encoding="utf-8").splitlines())
        for file in PACKAGE.rglob("*.py")
    }
    long = {name: lines for name, lines in lengths.items() if lines >= MAX_FILE_LINES}
    assert not long, "take it apart along what it does"


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = function.body[0]
    described = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if described else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def test_functions_are_short():
    long = {
        f"{file.relative_to(PACKAGE)} {node.name}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and length(node) >= MAX_FUNCTION_LINES
    }
    assert not long, "name what its parts do, and make functions of them"
