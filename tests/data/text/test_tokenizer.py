import json
import shutil
from functools import cache

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import pre_tokenizers, processors

from mgm.data.text.tokenizer import (
    check_vocabulary,
    encode_chunk,
    image_token_id_of,
    load_tokenizer,
)
from mgm.errors import MGMError
from mgm.model.files.tokenizer_files import max_token_id
from tests.golden_files import golden

load = cache(load_tokenizer)


def folder(name):
    return golden(f"tokenizers/{name}")


def test_image_token_id():
    for name, size in {"vicuna": 760, "llama3": 707}.items():
        tokenizer = load(folder(name))
        assert image_token_id_of(tokenizer) == size == len(tokenizer) - 1
        assert tokenizer("<image>", add_special_tokens=False).input_ids == [size]


def test_save_and_load(tmp_path):
    tokenizer = load(folder("vicuna"))
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    text = "  A sign: STOP </s>USER: 图 naïve"
    assert encode_chunk(again, text) == encode_chunk(tokenizer, text)
    assert again("x").input_ids == tokenizer("x").input_ids
    assert len(again) == len(tokenizer)
    assert again.pad_token == "<unk>"


def test_offsets():
    tokenizer = load(folder("vicuna"))
    text = "red bus</s>USER: two"
    ids, starts = encode_chunk(tokenizer, text)
    assert starts == sorted(starts)
    end = ids.index(tokenizer.eos_token_id)
    assert starts[end] == text.index("</s>")
    assert starts[end + 1] == text.index("USER")


def test_text_with_a_leading_space(tmp_path):
    """As the former LlamaTokenizer: sentencepiece after a token that is not merged."""
    source = folder("vicuna")
    shutil.copy(source / "tokenizer.model", tmp_path)
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"legacy": False}))
    tokenizer = load_tokenizer(tmp_path)
    reference = SentencePieceProcessor(model_file=str(source / "tokenizer.model"))
    guard = reference.encode("<unk>")
    for text in ("▁red", "▁▁red bus", " red", " ▁red", "▁ red", "red▁bus", "red", "▁", "▁1"):
        expected = reference.encode("<unk>▁" + text.replace("▁", " "))
        assert expected[: len(guard)] == guard
        ids, starts = encode_chunk(tokenizer, text)
        assert ids == expected[len(guard) :], text
        assert starts == sorted(starts)
        assert starts[-1] < len(text)


@pytest.mark.parametrize("where", ["added_tokens_decoder", "added_tokens.json", "unk_token"])
def test_tokens_that_strip_spaces(tmp_path, where):
    """As the former LlamaTokenizer, which strips the text on that side before sentencepiece."""
    source = folder("vicuna")
    shutil.copy(source / "tokenizer.model", tmp_path)
    settings = json.loads((source / "tokenizer_config.json").read_text())
    mark, other = {"rstrip": True}, {"lstrip": True}
    decoder = {"760": {"content": "<end>"} | mark, "761": {"content": "<ask>"} | other}
    if where == "unk_token":
        settings["unk_token"] = {"content": "<unk>"} | mark
    settings["added_tokens_decoder"] = decoder
    if where == "added_tokens.json":
        (tmp_path / where).write_text('{"<end>": 760, "<ask>": 761}')
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(tmp_path)
    reference = SentencePieceProcessor(model_file=str(source / "tokenizer.model"))
    end = ("<unk>", reference.unk_id()) if where == "unk_token" else ("<end>", 760)
    ids = tokenizer(f"red{end[0]} \n bus <ask> two", add_special_tokens=False).input_ids
    expected = [
        *reference.encode("red"),
        end[1],
        *reference.encode("bus"),
        761,
        *reference.encode(" two"),
    ]
    assert ids == expected


def test_offsets_of_empty_spaces():
    """GPT-2's tokenizers report the offset of a space after it."""
    trimming, plain = (load_tokenizer(folder("llama3")) for _ in range(2))
    trimming.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    for text in ("red ", "red  bus \n  ", " ", "<|eot_id|>  <|eot_id|>", "£ 🚗  "):
        ids, starts = encode_chunk(trimming, text)
        assert ids == encode_chunk(plain, text)[0]
        spaces = [
            start for start, token in zip(starts, ids, strict=True) if _is_space(plain, token)
        ]
        assert spaces
        assert all(text[start].isspace() for start in spaces), text


def _is_space(tokenizer, token):
    return tokenizer.decode([token]).isspace()


@pytest.mark.parametrize("content", [None, "{", "{}", '{"a": 1}', "[]"])
def test_folder_without_a_tokenizer(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(MGMError, match=str(tmp_path)) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
    assert "needs" in str(caught.value)


def test_damaged_sentencepiece_file(tmp_path):
    shutil.copy(folder("vicuna") / "tokenizer_config.json", tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"nothing of the kind")
    with pytest.raises(MGMError, match="no usable tokenizer"):
        load_tokenizer(tmp_path)


def test_invalid_settings(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{")
    (tmp_path / "tokenizer.json").write_text(json.dumps({}))
    with pytest.raises(MGMError, match=r"tokenizer_config\.json: is not valid JSON"):
        load_tokenizer(tmp_path)


SEQUENCE = {"Sequence": {"id": "A", "type_id": 0}}
UNKNOWN = {"SpecialToken": {"id": "<zz>", "type_id": 0}}
TEMPLATE = {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("post_processor", TEMPLATE | {"single": [UNKNOWN, SEQUENCE]}),
        ("post_processor", TEMPLATE | {"single": [{"Sequence": {"id": "B", "type_id": 0}}]}),
        (
            "post_processor",  # unknown tokens, without their text
            TEMPLATE | {"single": [{"SpecialToken": {"id": "q", "type_id": 0}}]},
        ),
        ("normalizer", {"type": "Replace", "pattern": {"Regex": "."}, "content": ""}),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": ""}),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA"}),
        ("pre_tokenizer", {"type": "FixedLength", "length": 0}),
    ],
)
def test_rust_panic_at_load(tmp_path, part, value):
    """Panics of Rust are not an `Exception`."""
    content = json.loads((folder("llama3") / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | {part: value}))
    with pytest.raises(MGMError, match=r"tokenizer\.json: no usable tokenizer there") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_rust_panic_while_encoding():
    tokenizer = load_tokenizer(folder("llama3"))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.FixedLength(0)
    with pytest.raises(RuntimeError, match="chunk size must be non-zero"):
        encode_chunk(tokenizer, "a red bus")


@pytest.mark.parametrize("tokens", [["▁re"], ["▁re", "▁in", "▁to"]])
def test_tokens_that_are_not_utf_8(tmp_path, tokens):
    shutil.copytree(folder("vicuna"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").unlink(missing_ok=True)
    file = tmp_path / "tokenizer.model"
    content = file.read_bytes()
    for token in map(str.encode, tokens):
        content = content.replace(token, b"\xff" * len(token), 1)
    file.write_bytes(content)
    max_token_id(tmp_path)  # the caller decides at load
    with pytest.raises(MGMError, match=r"tokenizer\.model: no usable tokenizer there \('utf-8'"):
        load_tokenizer(tmp_path)


def test_tokenizer_class_without_sentencepiece(tmp_path):
    shutil.copy(folder("vicuna") / "tokenizer.model", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Evil"}')
    with pytest.raises(MGMError, match=r"tokenizer_config\.json: tokenizer_class is 'Evil'; valid"):
        load_tokenizer(tmp_path)


@pytest.mark.heavy
def test_vocabulary_larger_than_the_model(tmp_path):
    content = json.loads((folder("llama3") / "tokenizer.json").read_text())
    content["model"]["vocab"]["beyond"] = 2**31 - 1
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(MGMError, match=r"tokenizer\.json: 'beyond' is token 2147483647, and"):
        check_vocabulary(load_tokenizer(tmp_path), 1000)
    fine = load_tokenizer(folder("llama3"))
    fine.add_tokens(["<beyond>"])  # as in published tokenizers
    check_vocabulary(fine, len(fine.get_vocab()) - len(fine.get_added_vocab()))
