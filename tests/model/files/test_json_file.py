"""Invalid JSON files, and paths that are not regular files: one-line errors without blocking."""

import os

import pytest

from mgm.errors import MGMError
from mgm.model.files.json_fields import (
    BOOLEAN,
    TEXT,
    TOKEN_IDS,
    check_fields,
    either,
    integer,
    list_of,
    number,
    optional,
)
from mgm.model.files.json_file import read_json, read_optional_json
from mgm.model.files.tokenizer_files import check_tokenizer_files, max_token_id

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        ('{"a": "ü"}'.encode("latin-1"), "not UTF-8"),
        (b"null", "contains a NoneType, not an object"),
        (b"[]", "contains a list, not an object"),
        (b"1e999", "contains a float, not an object"),
        (b'{"a":' * 10**5, "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "an integer of 5000 digits"),
        (b'{"a": ' + b"9" * 41 + b"}", "an integer of 41 digits"),
    ],
)
def test_content_that_is_not_an_object(tmp_path, content, message) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(MGMError, match=message) as raised:
        read_optional_json(file)
    assert str(raised.value).startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "is a folder, not a file"),
        (os.mkfifo, "is a pipe, socket or device"),
        (
            lambda path: path.symlink_to("nowhere"),
            "is a broken link; check the path, or copy it again",
        ),
        (lambda path: path.symlink_to(path.name), "cannot be read"),
        (lambda path: path.symlink_to("/dev/zero"), "is a pipe, socket or device"),
    ],
)
def test_paths_that_are_not_files(tmp_path, make, message) -> None:
    file = tmp_path / "config.json"
    make(file)
    with pytest.raises(MGMError, match=rf"config\.json: {message}"):
        read_optional_json(file)


def test_missing_file(tmp_path) -> None:
    assert read_optional_json(tmp_path / "config.json") == {}
    with pytest.raises(MGMError, match=r"config\.json: no such file"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        (integer(1, 9), [1, 9], [0, 10, True, 1.0, "1", None, [], NAN]),
        (number(0, 1), [0, 1, 0.5], [-0.1, 1.1, NAN, INF, True, "0", None, 10**400]),
        (number(0, above=True), [1e-9, 10**30], [0, 0.0, -1, INF, NAN]),
        (BOOLEAN, [True, False], [0, 1, None, "true"]),
        (TEXT, ["", "ü", "😀"], ["\ud800", 1, None, ["a"]]),
        (TOKEN_IDS, [None, 0, 5, [5, 6]], [-1, True, 1.0, [True], ["5"], 2**31, {}]),
        (list_of(integer(1), 2), [[1, 2], (3, 4)], [[1], [1, 0], 1, "12", {1: 1, 2: 2}]),
        (optional(either(integer(1), TEXT)), [None, 1, "a"], [0, [], False]),
    ],
)
def test_rules(rule, right, wrong) -> None:
    for value in right:
        check_fields({"a": value}, {"a": rule}, "f.json")
    for value in wrong:
        with pytest.raises(MGMError, match=r"^f\.json: part\.a is .*; valid: ") as raised:
            check_fields({"a": value}, {"a": rule}, "f.json", "part.")
        assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", '{"bos_token": true}'),
        ("tokenizer_config.json", '{"eos_token": {"content": 3}}'),
        ("tokenizer_config.json", '{"model_max_length": NaN}'),
        ("tokenizer_config.json", '{"padding_side": "up"}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": []}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"-1": {"content": "a"}}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"1": "a"}}'),
        (
            "tokenizer_config.json",
            '{"added_tokens_decoder": {"1": {"content": "a", "special": 1}}}',
        ),
        ("added_tokens.json", '{"a": -1}'),
        ("added_tokens.json", '{"a": true}'),
        ("added_tokens.json", '{"\\ud800": 1}'),
        ("special_tokens_map.json", '{"pad_token": 3}'),
    ],
)
def test_tokenizer_settings(tmp_path, name, content) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(MGMError, match=name.replace(".", r"\.")):
        check_tokenizer_files(tmp_path)


@pytest.mark.parametrize(
    "content",
    ['{"model": []}', '{"added_tokens": [1]}', '{"added_tokens": [{"content": "a", "id": -1}]}'],
)
def test_tokenizer_without_ids(tmp_path, content) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(MGMError, match=r"tokenizer\.json: is not a tokenizer"):
        max_token_id(tmp_path)
