import json

import pytest
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

from mgm.data.image_processing_mgm import MGMImageProcessor
from mgm.data.processing_mgm import MGMProcessor

SPECIAL = ["<pad>", "<unk>", "<s>", "<|user|>", "<|assistant|>", "<|end|>"]
WORDS = ["what", "is", "this", "a", "cat", "dog", "red", "blue", "compare", "sure", "one", "two"]


@pytest.fixture(scope="session")
def nano_tokenizer():
    """A tokenizer like that of the nano model: words, and a token for each space."""
    tokens = [*SPECIAL, " ", "\n", "?", ".", ",", *WORDS, *"abcdefghijklmnopqrstuvwxyz"]
    tokens += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    backend = Tokenizer(WordPiece(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w]"), "isolated")
    backend.decoder = decoders.Sequence([decoders.Replace("##", ""), decoders.Fuse()])
    backend.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="<|end|>",
        unk_token="<unk>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture
def processor(nano_tokenizer):
    """A processor for tiny images: 28 pixels as 4 tokens, and 64 pixels for the ConvNeXt."""
    return MGMProcessor(MGMImageProcessor(28, 64), nano_tokenizer, "nano")


@pytest.fixture
def tiny(tmp_path):
    """Two small image files, red.png and blue.png, in a folder."""
    for name in ("red", "blue"):
        Image.new("RGB", (20, 10), name).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.fixture
def write_samples(tiny):
    """Writes samples to data.json (or another name) in the folder of the tiny images; returns its
    path.
    """

    def write(samples, name="data.json"):
        path = tiny / name
        path.write_text(samples if isinstance(samples, str) else json.dumps(samples))
        return path

    return write
