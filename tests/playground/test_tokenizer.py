import pytest

from playground.tokenizer import SPECIAL_TOKENS, build_tokenizer, question_words


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(["What", "does", "the", "sign", "say"])


@pytest.mark.parametrize(
    "text",
    [
        "What does the sign say?",
        "Garden",
        "two  spaces",
        "$12.50\nTotal",
        "café ☕",
        "a\n\nb",
        "",
    ],
)
def test_text_comes_back(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_token_id not in ids


def test_words_of_questions_are_whole_and_others_are_spelled(tokenizer):
    ids = tokenizer("What does the Garden say?", add_special_tokens=False).input_ids
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens[:3] == ["▁What", "▁does", "▁the"]
    assert tokens[3:10] == ["▁", "G", "a", "r", "d", "e", "n"]
    assert tokens[10:] == ["▁say", "?"]


def test_a_word_is_the_same_token_at_the_start_of_a_line(tokenizer):
    ids = tokenizer("Hi\nWhat", add_special_tokens=False).input_ids
    assert tokenizer.convert_ids_to_tokens(ids)[-1] == "▁What"


def test_special_tokens_come_first(tokenizer):
    assert tokenizer.convert_ids_to_tokens(range(len(SPECIAL_TOKENS))) == list(SPECIAL_TOKENS)
    assert (tokenizer.pad_token_id, tokenizer.eos_token) == (0, "<|end|>")


def test_question_words_leaves_out_what_is_spelled_and_what_is_rare():
    texts = ["What is the price?"] * 3 + ["Garden Garden Garden", "rare"]
    assert question_words(texts, {"garden"}, minimum=3) == ["What", "is", "price", "the"]
