"""The nano model's tokenizer: whole words for the language of questions, single letters for what is read.

What stands in a picture must be spelled, so words that are only ever read get no token of their
own: the model learns to read letters, and words it never saw cost nothing extra. Everything else
falls back to bytes, so that no text is impossible.
"""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<pad>", "<unk>", "<s>", "<|user|>", "<|assistant|>", "<|end|>")
WORD = re.compile(r"[A-Za-z]+")
SPACE = "▁"


def question_words(texts: Iterable[str], spelled: set[str], minimum: int) -> list[str]:
    """Words that occur at least `minimum` times in `texts` and are not in `spelled` (lower case)."""
    counts = Counter(word for text in texts for word in WORD.findall(text))
    return sorted(
        word
        for word, count in counts.items()
        if count >= minimum and len(word) > 1 and word.lower() not in spelled
    )


def build_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer over single characters, the given whole words, and bytes."""
    characters = ["\n", SPACE, *(chr(code) for code in range(33, 127))]
    vocabulary = [(token, 0.0) for token in SPECIAL_TOKENS]
    vocabulary += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    vocabulary += [(character, -10.0) for character in characters]
    vocabulary += [(SPACE + word, -1.0) for word in words]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=1, byte_fallback=True))
    # A line break starts a word as a space does, so that a word is one token in either place.
    tokenizer.normalizer = normalizers.Replace("\n", "\n ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True),
            pre_tokenizers.Split(Regex(r"\n|[0-9]|[^\w▁\n]"), behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Replace(SPACE, " "),
            decoders.Replace("\n ", "\n"),
            decoders.Strip(" ", left=1, right=0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="right",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(words: Iterable[str], folder: Path) -> None:
    build_tokenizer(words).save_pretrained(folder)


def conversation_ids(
    tokenizer: PreTrainedTokenizerFast, turns: Iterable[tuple[str, str]]
) -> list[int]:
    """Token ids of question-answer turns in the nano template, all of them to be learned."""
    ids = [tokenizer.bos_token_id]
    user, assistant, end = tokenizer.convert_tokens_to_ids(["<|user|>", "<|assistant|>", "<|end|>"])
    for question, answer in turns:
        ids += [user, *tokenizer(question, add_special_tokens=False).input_ids, end]
        ids += [assistant, *tokenizer(answer, add_special_tokens=False).input_ids, end]
    return ids
