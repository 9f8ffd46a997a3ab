"""The nano model's tokenizer: whole words for questions, single letters for what is read.

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

from mgm.atomic import atomic_folder
from mgm.errors import MGMError, Parser, run_command
from playground.arguments import count
from playground.colors import COLORS
from playground.emoji import EMOJI
from playground.photo_library import HOW, load_photos, picture_names
from playground.scenes import draw_sample
from playground.shapes import SHAPES
from playground.words import themes

SPECIAL_TOKENS = ("<pad>", "<unk>", "<s>", "<|user|>", "<|assistant|>", "<|end|>")
WORD = re.compile(r"[A-Za-z]+")
SPACE = "▁"


def question_words(texts: Iterable[str], spelled: set[str], minimum: int) -> list[str]:
    """Words that occur `minimum` times or more in `texts` and are not in `spelled` (lower case)."""
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


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that this program wrote to `folder`, never one of the hub.

    Raises:
        MGMError: there is none.
    """
    if not (folder / "tokenizer.json").is_file():
        raise MGMError(f"{folder}: holds no tokenizer.json; give a folder that this project wrote")
    return PreTrainedTokenizerFast.from_pretrained(folder)


def main() -> None:
    """Read the command line, count words, and write the tokenizer."""
    parser = Parser(prog="python -m playground.tokenizer", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the tokenizer")
    parser.add_argument(
        "--samples", type=count, default=6000, help="scenes whose words are counted"
    )
    parser.add_argument(
        "--min-count", type=count, default=25, help="occurrences from which a word is one token"
    )
    parser.add_argument("--photos", type=Path, help=f"folder of photographs to ask about; {HOW}")
    arguments = parser.parse_args()
    photos = load_photos(arguments.photos) if arguments.photos else None
    samples = [draw_sample(seed, "train", photos=photos) for seed in range(arguments.samples)]
    texts = [text for s in samples for t in s.turns for text in (t.question, t.answer)]
    texts += [sample.caption for sample in samples]
    spelled = {word.lower() for words in themes().values() for word in words}
    photo_words = {word for kind, name, _ in picture_names() for word in (kind, name)}
    labels = {word for label in (*SHAPES, *EMOJI, *COLORS, *photo_words) for word in label.split()}
    words = sorted({*question_words(texts, spelled, arguments.min_count), *labels})
    with atomic_folder(arguments.out) as part:
        build_tokenizer(words).save_pretrained(part)
    print(f"{len(words)} whole words: {' '.join(words)}")


if __name__ == "__main__":
    run_command(main)
