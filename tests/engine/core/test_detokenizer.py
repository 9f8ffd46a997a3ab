import pytest

from mgm.data.text.tokenizer import load_tokenizer
from mgm.engine.core.detokenizer import IncrementalDetokenizer
from mgm.engine.core.token_bytes import TokenBytes
from tests.golden_files import golden
from tests.tiny_model import byte_tokenizer

TEXT = "naïve 图 of a 🏳️‍🌈 flag, 7 €"


def stream(tokenizer, ids, stops=()):
    """Every piece, and the text at the end."""
    text, pieces = IncrementalDetokenizer(TokenBytes(tokenizer), stops), []
    for token in ids:
        if not text.stopped:
            text.push(token)
            pieces.append(text.take())
    text.finish()
    pieces.append(text.take())
    assert "".join(pieces) == text.text
    return pieces, text


def test_characters_of_several_tokens_come_whole():
    tokenizer = byte_tokenizer()
    ids = tokenizer(TEXT).input_ids
    pieces, text = stream(tokenizer, ids)
    assert text.text == TEXT
    assert len(ids) > len(TEXT)  # some characters took several tokens
    assert "\ufffd" not in "".join(pieces)
    assert max(map(len, pieces)) == 1


@pytest.mark.parametrize("name", ["vicuna", "vicuna_nonlegacy", "gemma", "llama3", "gptneox"])
def test_text_of_published_tokenizers(name):
    tokenizer = load_tokenizer(golden(f"tokenizers/{name}"))
    for text in (TEXT, "A sign: STOP\n  two  spaces", "图图"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        pieces, streamed = stream(tokenizer, ids)
        assert streamed.text == tokenizer.decode(ids, skip_special_tokens=True) == text
        assert all("\ufffd" not in piece for piece in pieces)


def test_wrong_bytes_do_not_spoil_their_neighbours():
    tokenizer = load_tokenizer(golden("tokenizers/vicuna"))
    ids = tokenizer.convert_tokens_to_ids(["▁a", "<0x47>", "<0xB7>", "<0x47>", "▁a"])
    assert stream(tokenizer, ids)[1].text == "aG\ufffdG a"
    ids = tokenizer.convert_tokens_to_ids(["<0xE5>", "<0x9B>"])  # two thirds of a character
    assert stream(tokenizer, ids)[0] == ["", "", "\ufffd"]


def test_special_tokens_are_no_text():
    tokenizer = byte_tokenizer()
    ids = tokenizer("<s>a<|user|>b").input_ids
    assert stream(tokenizer, ids)[0] == ["", "a", "", "b", ""]


def test_stop_texts_are_never_seen_in_part():
    tokenizer = byte_tokenizer()
    pieces, text = stream(tokenizer, tokenizer("a # ## b### c").input_ids, ["###", "end"])
    assert text.text == "a # ## b"
    assert text.stopped
    assert pieces[1:9] == [" ", "", "# ", "", "", "## ", "b", ""]


def test_the_beginning_of_a_stop_text_alone_is_text():
    tokenizer = byte_tokenizer()
    pieces, text = stream(tokenizer, tokenizer("is it the en").input_ids, ["end"])
    assert text.text == "is it the en"
    assert not text.stopped
    assert pieces[-1] == "en"


def test_the_first_of_several_stop_texts_counts():
    tokenizer = byte_tokenizer()
    assert stream(tokenizer, tokenizer("one, two").input_ids, ["two", ", t"])[1].text == "one"
