import random
import time

import pytest

from mgm.data.text.tokenizer import load_tokenizer
from mgm.engine.core.detokenizer import IncrementalDetokenizer, _overlap
from mgm.engine.core.token_bytes import TokenBytes
from tests.golden_files import golden
from tests.tiny_model import byte_tokenizer

TEXT = "naïve 图 of a 🏳️‍🌈 flag, 7 €"


def stream(tokenizer, ids, stops=()):
    """Feed tokens to a detokenizer; returns the chunks, and the detokenizer."""
    text, parts = IncrementalDetokenizer(TokenBytes(tokenizer), stops), []
    for token in ids:
        if not text.stopped:
            text.append(token)
            parts.append(text.pop_text())
    text.finish()
    parts.append(text.pop_text())
    assert "".join(parts) == text.text
    return parts, text


def test_multi_token_characters_are_not_split():
    tokenizer = byte_tokenizer()
    ids = tokenizer(TEXT).input_ids
    parts, text = stream(tokenizer, ids)
    assert text.text == TEXT
    assert len(ids) > len(TEXT)  # some characters have several tokens
    assert "\ufffd" not in "".join(parts)
    assert max(map(len, parts)) == 1


@pytest.mark.parametrize("name", ["vicuna", "vicuna_nonlegacy", "gemma", "llama3", "gptneox"])
def test_text_equals_decode_of_published_tokenizers(name):
    tokenizer = load_tokenizer(golden(f"tokenizers/{name}"))
    for text in (TEXT, "A sign: STOP\n  two  spaces", "图图"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        parts, streamed = stream(tokenizer, ids)
        assert streamed.text == tokenizer.decode(ids, skip_special_tokens=True) == text
        assert all("\ufffd" not in part for part in parts)


def test_invalid_utf8_does_not_affect_neighbours():
    tokenizer = load_tokenizer(golden("tokenizers/vicuna"))
    ids = tokenizer.convert_tokens_to_ids(["▁a", "<0x47>", "<0xB7>", "<0x47>", "▁a"])
    assert stream(tokenizer, ids)[1].text == "aG\ufffdG a"
    ids = tokenizer.convert_tokens_to_ids(["<0xE5>", "<0x9B>"])  # two of three bytes of a character
    assert stream(tokenizer, ids)[0] == ["", "", "\ufffd"]


def test_special_tokens_have_no_text():
    tokenizer = byte_tokenizer()
    ids = tokenizer("<s>a<|user|>b").input_ids
    assert stream(tokenizer, ids)[0] == ["", "a", "", "b", ""]


def test_partial_stop_strings_are_held_back():
    tokenizer = byte_tokenizer()
    parts, text = stream(tokenizer, tokenizer("a # ## b### c").input_ids, ["###", "end"])
    assert text.text == "a # ## b"
    assert text.stopped
    assert parts[1:9] == [" ", "", "# ", "", "", "## ", "b", ""]


def test_unfinished_stop_string_becomes_text():
    tokenizer = byte_tokenizer()
    parts, text = stream(tokenizer, tokenizer("is it the en").input_ids, ["end"])
    assert text.text == "is it the en"
    assert not text.stopped
    assert parts[-1] == "en"


def test_earliest_stop_string_wins():
    tokenizer = byte_tokenizer()
    assert stream(tokenizer, tokenizer("one, two").input_ids, ["two", ", t"])[1].text == "one"


TOKENIZERS = ["bytes", "vicuna", "vicuna_nonlegacy", "gemma", "llama3", "gptneox", "yi", "nano"]


def vocabulary(name: str) -> TokenBytes:
    if name == "bytes":
        return TokenBytes(byte_tokenizer())
    folder = "playground/mgm-nano" if name == "nano" else golden(f"tokenizers/{name}")
    return TokenBytes(load_tokenizer(folder))


def random_ids(tokens: TokenBytes, seed: int) -> list[int]:
    """A mix of texts, random tokens, partial characters and special tokens."""
    draw = random.Random(seed)
    tokenizer = tokens.tokenizer
    ids: list[int] = []
    for _ in range(6):
        text = draw.choice([TEXT, " a\n  b", "é漢😀", "<s>", "end en"])
        ids += tokenizer(text, add_special_tokens=False).input_ids[: draw.randrange(1, 9)]
        ids += [draw.randrange(len(tokenizer)) for _ in range(draw.randrange(4))]
    return ids


@pytest.mark.parametrize("by_bytes", [False, True])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_token_spans_join_to_the_text(name, by_bytes):
    tokens = vocabulary(name)
    for seed in range(25):
        ids = random_ids(tokens, seed)
        whole = IncrementalDetokenizer(tokens, (), by_bytes)
        for token in ids:
            whole.append(token)
        whole.finish()
        middle = whole.text[len(whole.text) // 2 :][:2]
        for stops in ((), ("en",), (middle,) if middle else ()):
            text, taken = IncrementalDetokenizer(tokens, stops, by_bytes), ""
            for token in [*ids, None]:
                if text.stopped:
                    break
                first = text.num_popped_tokens
                text.finish() if token is None else text.append(token)
                part = text.pop_text()
                spans = text.spans(first, text.num_popped_tokens)
                assert "".join(span.part.text for span in spans) == part
                taken += part
            spans = text.spans(0, len(ids))
            expected = whole.text.partition(stops[0])[0] if stops else whole.text
            assert taken == text.text == expected
            assert "".join(span.part.text for span in spans) == text.text
            assert b"".join(span.part.utf8 for span in spans) == text.text.encode()
            for span in spans:
                assert text.text[span.start :].startswith(span.part.text)
            assert stops or len(spans) == len(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_token_bytes_equal_the_tokenizer(name):
    tokens = vocabulary(name)
    for text in (TEXT, "A sign: STOP\n  two  spaces", "é漢😀 café"):
        ids = tokens.tokenizer(text, add_special_tokens=False).input_ids
        made = b"".join(map(tokens.of, ids)).decode().strip()
        if name == "nano":  # whose decoder drops a blank at the start of every text
            made = made.replace("\n ", "\n")
        assert made == text


def test_partial_characters_have_their_bytes():
    text = IncrementalDetokenizer(vocabulary("bytes"))
    for token in text._vocabulary.tokenizer("a😀").input_ids:
        text.append(token)
    parts = [span.part for span in text.spans(0, 9)]
    assert [part.text for part in parts] == ["a", "", "", "", "😀"]
    assert [part.utf8 for part in parts] == [b"a", b"\xf0", b"\x9f", b"\x98", b"\x80"]


def test_candidate_equals_appended_text():
    tokens = vocabulary("vicuna")
    blank_a, a, half = tokens.tokenizer.convert_tokens_to_ids(["▁a", "a", "<0xE5>"])
    text = IncrementalDetokenizer(tokens)
    assert text.candidate(blank_a) == ("a", b"a")  # no leading blank
    assert text.candidate(half) == ("bytes:\\xe5", b"\xe5")
    text.append(a)
    assert text.candidate(blank_a) == (" a", b" a")
    assert text.candidate(2) == ("</s>", b"</s>")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_continuation_with_context(name):
    """Prompt and output, joined, equal the decoding of all tokens, including blanks."""
    tokens = vocabulary(name)
    for seed in range(10):
        ids = tokens.tokenizer("The color is white.\n It is 图", add_special_tokens=False).input_ids
        ids = ids if seed < 5 else [*ids, *random_ids(tokens, seed)]
        whole = IncrementalDetokenizer(tokens)
        for token in ids:
            whole.append(token)
        whole.finish()
        for length in (1, 2, 3, 4):
            text = IncrementalDetokenizer(tokens, context=[-200, 10**7, *ids[:length]])
            candidate = text.candidate(ids[length]).text
            for token in ids[length:]:
                text.append(token)
            text.finish()
            context = tokens.tokenizer.decode(ids[:length], skip_special_tokens=True)
            assert context + text.text == whole.text
            spans = text.spans(0, len(ids))
            assert len(spans) == len(ids) - length
            assert "".join(span.part.text for span in spans) == text.text
            assert spans[0].start == 0
            assert candidate == spans[0].part.text


def test_leading_blank_of_a_continuation_is_kept():
    tokens = vocabulary("vicuna")
    ids = tokens.tokenizer.convert_tokens_to_ids(["▁is", "▁white", "."])
    for context, expected in (((), "white."), (ids[:1], " white."), ([1], "white.")):
        text = IncrementalDetokenizer(tokens, context=context)
        for token in ids[1:]:
            text.append(token)
        assert text.text == expected


@pytest.mark.parametrize(
    ("text", "stop", "overlap"),
    [("ab", "abc", 2), ("abab", "abc", 2), ("aab", "aac", 0), ("aa", "aaa", 2), ("", "a", 0)],
)
def test_possible_starts_of_a_stop_string(text, stop, overlap):
    assert _overlap(text, stop) == overlap


def test_long_stop_strings_are_fast():
    tokens = vocabulary("bytes")
    ids = tokens.tokenizer("a" * 999 + "c").input_ids
    text = IncrementalDetokenizer(tokens, ["a" * 999 + "b"] * 8)
    start_time = time.thread_time()
    for token in ids:
        text.append(token)
        text.pop_text()
    assert time.thread_time() - start_time < 1.5
    assert text.text == "a" * 999 + "c"
