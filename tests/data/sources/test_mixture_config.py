"""Errors of mixtures are one line, for every reader."""

import json

import pytest

from mgm.data.doctor.__main__ import main
from mgm.data.sources.mixture_config import read_mixture
from mgm.errors import MGMError

HALF = "\ud83d"
RECORD = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}


def test_deep_nesting(tmp_path):
    file = tmp_path / "mixture.json"
    file.write_text(f'{{"datasets": {"[" * 100_000}{"]" * 100_000}}}')
    for read in (read_mixture, lambda name: main([str(name)])):
        with pytest.raises(MGMError, match=r"mixture\.json: is nested too deeply; a mixture is \{"):
            read(file)


@pytest.mark.parametrize("key", ["path", "name", "image_folder", "config", "split"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a\0b", "contains a NUL character"),
        (f"a{HALF}", r"has a lone surrogate \(.ud83d\) at position 1"),
        (3, "is 3; expected a string"),
        ([["a"]], r"is \[\['a'\]\]; expected a string"),
    ],
)
def test_invalid_strings(tmp_path, key, value, words):
    file = tmp_path / "mixture.json"
    file.write_text(json.dumps({"datasets": [{"path": "a.json"} | {key: value}]}))
    if key == "path" and not isinstance(value, str):
        words = "has no path"
    for read in (read_mixture, lambda name: main([str(name)])):
        with pytest.raises(
            MGMError, match=rf"mixture\.json: dataset 0: ({key} )?{words}"
        ) as caught:
            read(file)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("path", [".", "./", "..", "sub/.."])
def test_name_of_a_folder(tmp_path, path):
    (tmp_path / "sub").mkdir()
    file = tmp_path / "mixture.json"
    file.write_text(json.dumps({"datasets": [{"path": path}]}))
    (source,) = read_mixture(file) or ()
    assert source.name
    with pytest.raises(MGMError):  # the folder has no tables
        main([str(file)])


def test_too_long_path(tmp_path):
    file = tmp_path / "mixture.json"
    file.write_text(json.dumps({"datasets": [{"path": "a" * 5000 + ".json"}]}))
    with pytest.raises(MGMError, match=r"0: path '.* cannot be read \(File name too long\)"):
        main([str(file)])


def test_names_that_are_not_file_names(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([RECORD]))
    file = tmp_path / "mixture.json"
    file.write_text(json.dumps({"datasets": [{"path": "a.json", "name": "cost_$5_{_$ é"}]}))
    (source,) = read_mixture(file) or ()
    assert source.name == "cost_$5_{_$ é"
    assert main([str(file)]) == 0


def test_null_is_the_default(tmp_path):
    left_out = dict.fromkeys(("image_folder", "weight", "name", "config", "split"))
    sources = []
    for more in ({}, left_out):
        file = tmp_path / "mixture.json"
        file.write_text(json.dumps({"datasets": [{"path": "a.json"} | more]}))
        sources.append(read_mixture(file))
    assert sources[0] == sources[1]
