"""Lower bounds in pyproject.toml equal constraints-lowest.txt; constraints.txt satisfies them."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pinned(file: str) -> dict[str, Version]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def promised(lines: list[str]) -> Iterator[tuple[str, Requirement]]:
    for line in lines:
        requirement = Requirement(line)
        yield canonicalize_name(requirement.name), requirement


def test_lowest_constraints_equal_the_lower_bounds():
    lowest = pinned("constraints-lowest.txt")
    for name, requirement in promised(PROJECT["dependencies"]):
        (bound,) = (Version(one.version) for one in requirement.specifier if one.operator == ">=")
        assert lowest[name] == bound, requirement


def test_constraints_satisfy_the_bounds():
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    base = PROJECT["dependencies"]
    peft = [line for line in extras if line.startswith("peft")]  # the one extra of the lowest set
    for file, lines in (
        ("constraints.txt", base + extras),
        ("constraints-lowest.txt", base + peft),
    ):
        versions = pinned(file)
        for name, requirement in promised(lines):
            if name in versions:
                assert requirement.specifier.contains(versions[name]), f"{file}: {requirement}"
