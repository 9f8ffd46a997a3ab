"""Validates tokenizer files: libraries ignore errors in them, or do not name the file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor

from mgm.errors import MGMError
from mgm.model.files.json_fields import (
    BOOLEAN,
    TEXT,
    TOKEN_ID,
    Rule,
    check_fields,
    either,
    is_text,
    list_of,
    number,
    one_of,
    optional,
    shown,
)
from mgm.model.files.json_file import check_readable, is_present, read_json, read_optional_json

SETTINGS_FILE = "tokenizer_config.json"
ADDED_FILE = "added_tokens.json"
WHOLE_FILE = "tokenizer.json"
SENTENCEPIECE_FILE = "tokenizer.model"
_MAP_FILE = "special_tokens_map.json"
# Read by libraries, which would block on a pipe.
_OTHER_FILES = (WHOLE_FILE, SENTENCEPIECE_FILE, "vocab.json", "vocab.txt", "merges.txt")

_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


def _is_token(value: object) -> bool:
    if not isinstance(value, dict):
        return is_text(value)
    flags = (value.get(name, False) for name in _FLAGS)
    return is_text(value.get("content")) and all(isinstance(flag, bool) for flag in flags)


_TOKEN = Rule(_is_token, "text, or an object with content and flags")
_TOKENS = optional(either(list_of(_TOKEN), Rule(lambda v: isinstance(v, dict), "an object")))
_TOKEN_RULES: Mapping[str, Rule] = {
    **{f"{name}_token": optional(_TOKEN) for name in ("bos", "eos", "unk", "pad", "sep", "cls")},
    "additional_special_tokens": _TOKENS,
    "extra_special_tokens": _TOKENS,
}
_SETTINGS_RULES: Mapping[str, Rule] = {
    **_TOKEN_RULES,
    "model_max_length": optional(number(1)),
    "tokenizer_class": optional(TEXT),
    "padding_side": one_of("left", "right"),
    "truncation_side": one_of("left", "right"),
    **{
        name: optional(BOOLEAN)
        for name in (
            "add_bos_token",
            "add_eos_token",
            "add_prefix_space",
            "clean_up_tokenization_spaces",
            "legacy",
            "split_special_tokens",
        )
    },
}


def check_tokenizer_files(folder: Path) -> None:
    """Check a tokenizer's settings, and that its files are regular files.

    Raises:
        MGMError: a file is broken; names the file and the field.
    """
    read_tokenizer_config(folder)
    read_added_tokens(folder)
    file = folder / _MAP_FILE
    check_fields(read_optional_json(file), _TOKEN_RULES, file)
    for name in _OTHER_FILES:
        if is_present(folder / name):
            check_readable(folder / name)


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, checked; empty if there is none."""
    file = folder / SETTINGS_FILE
    settings = read_optional_json(file)
    check_fields(settings, _SETTINGS_RULES, file)
    decoder = settings.get("added_tokens_decoder", {})
    if not isinstance(decoder, dict):
        raise MGMError(f"{file}: added_tokens_decoder is {shown(decoder)}; valid: tokens by id")
    for index, token in decoder.items():
        plain = index.isascii() and index.isdigit() and TOKEN_ID.accepts(int(index[:20]))
        if not plain or not isinstance(token, dict) or not _is_token(token):
            raise MGMError(
                f"{file}: added_tokens_decoder.{index[:40]!r} is {shown(token)}; valid: an id, "
                "and an object with content and flags"
            )
    return settings


def read_added_tokens(folder: Path) -> dict[str, int]:
    """added_tokens.json, checked: ids by token; empty if there is none."""
    file = folder / ADDED_FILE
    tokens = read_optional_json(file)
    for token, index in tokens.items():
        if not is_text(token) or not TOKEN_ID.accepts(index):
            raise MGMError(f"{file}: {shown(token)} is {shown(index)}; valid: {TOKEN_ID.valid}")
    return tokens


def max_token_id(folder: Path) -> int:
    """The highest token id in a tokenizer's files, added tokens included; -1: no tokens.

    `<image>`, which our own tokenizers have, is left out.

    Raises:
        MGMError: a file is broken.
    """
    tokens = dict(read_added_tokens(folder))
    for index, token in read_tokenizer_config(folder).get("added_tokens_decoder", {}).items():
        tokens[token["content"]] = int(index)
    file = folder / WHOLE_FILE
    if not is_present(file):
        size = _sentencepiece_size(folder / SENTENCEPIECE_FILE)
    else:
        whole = read_json(file)
        try:
            size = len(whole.get("model", {}).get("vocab", ()))
            added = {token["content"]: token["id"] for token in whole.get("added_tokens", ())}
            tokens |= {token: _checked_id(index) for token, index in added.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise MGMError(
                f"{file}: is not a tokenizer ({type(error).__name__}: {error}); copy it again"
            ) from error
    tokens.pop("<image>", None)
    return max(size - 1, *tokens.values(), -1)


def _checked_id(index: object) -> int:
    if not isinstance(index, int) or not TOKEN_ID.accepts(index):
        raise ValueError(f"a token's id is {shown(index)}")
    return index


def _sentencepiece_size(file: Path) -> int:
    if not is_present(file):
        return 0
    check_readable(file)
    try:
        return SentencePieceProcessor(model_file=str(file)).get_piece_size()
    except (OSError, RuntimeError, ValueError):  # ValueError: its message is not UTF-8
        return 0  # the error is raised when the tokenizer is loaded
