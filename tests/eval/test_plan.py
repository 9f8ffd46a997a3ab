"""Tasks of a run, and errors about missing data."""

import shlex

import pytest

from mgm.errors import MGMError
from mgm.eval.__main__ import main
from mgm.eval.prepare import parse_args as parse_prepare
from mgm.eval.registry import expand_groups
from tests.eval.fixtures import gqa


def refusal(data, *words: str) -> str:
    with pytest.raises(MGMError) as error:
        main(["--model-path", "nowhere", "--data-dir", str(data), "--benchmark", *words])
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("group", ["paper", "highres", "all"])
def test_missing_benchmarks_are_listed_with_the_command(tmp_path, group) -> None:
    data = tmp_path / "the data"
    gqa(data)
    message = refusal(data, "gqa", group, "--protocol", "lmms-eval", "--dry-run")
    command = message[message.index("python -m mgm.eval.prepare") : message.index(" downloads")]
    options = parse_prepare(shlex.split(command)[3:])
    assert set(expand_groups([group])) - {"gqa"} <= set(options.benchmark)
    assert (options.protocol, options.data_dir) == ("lmms-eval", data)


def test_one_missing_benchmark(tmp_path) -> None:
    message = refusal(tmp_path, "textvqa")
    assert message.startswith(str(tmp_path / "textvqa"))
    assert ": is missing; python -m mgm.eval.prepare textvqa --data-dir " in message


def test_existing_benchmarks_are_not_listed(tmp_path) -> None:
    gqa(tmp_path)
    assert "gqa" not in refusal(tmp_path, "gqa", "vizwiz").partition(";")[2].split()
