"""The nano model's tokenizer: word tokens for questions, character tokens for text in images.

Words that occur only as text in images have no token of their own. The model therefore learns to
read letter by letter and can spell words that were not in its training data. Other characters are
encoded as bytes.
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
from playground.photo_library import FETCH_HINT, listed_photos, load_photos
from playground.scenes import draw_sample
from playground.shapes import SHAPES
from playground.words import themes

SPECIAL_TOKENS = ("<pad>", "<unk>", "<s>", "<|user|>", "<|assistant|>", "<|end|>")
WORD = re.compile(r"[A-Za-z]+")
SPACE = "▁"


def question_words(texts: Iterable[str], spelled: set[str], minimum: int) -> list[str]:
    """Words with at least `minimum` occurrences in `texts`, without those of `spelled`."""
    counts = Counter(word for text in texts for word in WORD.findall(text))
    return sorted(
        word
        for word, count in counts.items()
        if count >= minimum and len(word) > 1 and word.lower() not in spelled
    )


def build_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Build a Unigram tokenizer of single characters, the given words, and bytes."""
    characters = ["\n", SPACE, *(chr(code) for code in range(33, 127))]
    vocabulary = [(token, 0.0) for token in SPECIAL_TOKENS]
    vocabulary += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    vocabulary += [(character, -10.0) for character in characters]
    vocabulary += [(SPACE + word, -1.0) for word in words]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=1, byte_fallback=True))
    # A line break starts a word as a space does, so that a word is one token after both.
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
    """Load the tokenizer that this program wrote to `folder`; never downloads from the hub.

    Raises:
        MGMError: the folder has no tokenizer.
    """
    if not (folder / "tokenizer.json").is_file():
        raise MGMError(f"{folder}: holds no tokenizer.json; give a folder that this project wrote")
    return PreTrainedTokenizerFast.from_pretrained(folder)


def main() -> None:
    """Count the words of drawn scenes, and write the tokenizer."""
    parser = Parser(prog="python -m playground.tokenizer", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument(
        "--samples", type=count, default=6000, help="number of scenes to count words in"
    )
    parser.add_argument(
        "--min-count", type=count, default=25, help="minimum occurrences of a word token"
    )
    parser.add_argument(
        "--photos", type=Path, help=f"folder of photographs used in scenes; {FETCH_HINT}"
    )
    arguments = parser.parse_args()
    photos = load_photos(arguments.photos) if arguments.photos else None
    samples = [draw_sample(seed, "train", photos=photos) for seed in range(arguments.samples)]
    texts = [text for s in samples for t in s.turns for text in (t.question, t.answer)]
    texts += [sample.caption for sample in samples]
    spelled = {word.lower() for words in themes().values() for word in words}
    photo_words = {word for kind, name, _ in listed_photos() for word in (kind, name)}
    labels = {word for label in (*SHAPES, *EMOJI, *COLORS, *photo_words) for word in label.split()}
    words = sorted({*question_words(texts, spelled, arguments.min_count), *labels})
    with atomic_folder(arguments.out) as part:
        build_tokenizer(words).save_pretrained(part)
    print(f"{len(words)} whole words: {' '.join(words)}")


if __name__ == "__main__":
    run_command(main)
