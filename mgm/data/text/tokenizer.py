"""Loads the tokenizer of a model folder: tokenizer.json, SentencePiece files, added tokens.

Released models were trained with the tokenizers of transformers 4.38; the token ids are the same.
"""

import os
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mgm.data.text.templates import IMAGE_MARKER
from mgm.errors import MGMError, one_line
from mgm.model.files.json_fields import shown
from mgm.model.files.json_file import is_present
from mgm.model.files.rust_panics import panics_as_errors
from mgm.model.files.tokenizer_files import (
    SENTENCEPIECE_FILE,
    SETTINGS_FILE,
    WHOLE_FILE,
    check_tokenizer_files,
    read_added_tokens,
    read_tokenizer_config,
)

_LLAMA = "LlamaTokenizer"  # tokenizer class for which tokenizer.model suffices
_SPACE = "▁"
_PROBE = "a e i o u A 1"  # text of which every vocabulary has tokens


def load_tokenizer(path: str | os.PathLike[str]) -> PreTrainedTokenizerFast:
    """Load the tokenizer of `path`, with `<image>` as a special token.

    The id of `<image>` is a placeholder for image features and is never input to the language
    model. It is the first id after the vocabulary, unless the tokenizer has the token already. The
    padding token defaults to the unknown or else the EOS token; padding is masked by length.

    Args:
        path: a folder with tokenizer.json, or with the tokenizer.model of the LLaMA family, or
            with files that transformers converts to a fast tokenizer; or a name on the hub.

    Raises:
        MGMError: there is no tokenizer, or it is damaged or not supported.
    """
    folder = Path(path)
    if folder.is_dir():
        check_tokenizer_files(folder)
    file = next((n for n in (WHOLE_FILE, SENTENCEPIECE_FILE) if is_present(folder / n)), "")
    try:
        with panics_as_errors():
            if _is_llama_sentencepiece(folder):
                file = SENTENCEPIECE_FILE
                tokenizer = _from_sentencepiece(folder)
            else:
                tokenizer = _read(path, file)
            _complete(tokenizer)
    except MGMError:
        raise
    except Exception as error:  # the tokenizers library raises no narrower class
        reason = f"{error} is missing in it" if isinstance(error, KeyError) else one_line(error)
        raise MGMError(
            f"{folder / file if file else path}: no usable tokenizer there ({reason[:200]}); "
            "it needs a whole tokenizer.json or tokenizer.model"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise MGMError(f"{path}: only tokenizers with a tokenizer.json can be used")
    return tokenizer


def _read(path: str | os.PathLike[str], file: str) -> Any:
    """Load a tokenizer with transformers; `file`: tokenizer.json, tokenizer.model, or empty."""
    folder = Path(path)
    if file == WHOLE_FILE:
        return PreTrainedTokenizerFast.from_pretrained(folder, clean_up_tokenization_spaces=False)
    if folder.exists() and not any(folder.glob("*vocab*")):
        if not file:
            raise MGMError(
                f"{folder}: has no tokenizer; it needs tokenizer.json or tokenizer.model"
            )
        kind = read_tokenizer_config(folder).get("tokenizer_class")
        raise MGMError(
            f"{folder / SETTINGS_FILE}: tokenizer_class is {shown(kind)}; valid beside a "
            f"{SENTENCEPIECE_FILE}: {_LLAMA}; correct it, or add a {WHOLE_FILE}"
        )
    return AutoTokenizer.from_pretrained(path)


def _complete(tokenizer: PreTrainedTokenizerBase) -> None:
    """Add missing special tokens, and test encoding, at which many broken files fail.

    Raises:
        ValueError: the tokenizer drops text, which later steps would not detect.
    """
    add_image_token(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    ids = tokenizer(_PROBE, add_special_tokens=False).input_ids
    tokenizer.decode(ids)
    if not ids:
        raise ValueError(f"it makes no tokens of {_PROBE!r}")
    leading_ids(tokenizer)
    if not tokenizer(_PROBE).input_ids:
        raise ValueError("its post-processor drops the text")


def add_image_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Add the special token `<image>` to a tokenizer, unless it has it."""
    tokenizer.add_tokens([AddedToken(IMAGE_MARKER, normalized=False)], special_tokens=True)


def image_token_id_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token id of `<image>` in a tokenizer from `load_tokenizer`."""
    return tokenizer.get_vocab()[IMAGE_MARKER]


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the highest token id, `<image>` excluded."""
    ids = tokenizer.get_vocab()
    return 1 + max(index for token, index in ids.items() if token != IMAGE_MARKER)


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Check that a vocabulary fits a model with `rows` embeddings.

    Compat: published checkpoints have added tokens without an embedding, which are allowed here;
    prompts with one of them are refused.

    Raises:
        MGMError: a token of the vocabulary itself has no embedding.
    """
    added = tokenizer.get_added_vocab()
    ids = {token: index for token, index in tokenizer.get_vocab().items() if token not in added}
    token = max(ids, key=ids.__getitem__, default=None)
    if token is not None and ids[token] >= rows:
        folder = tokenizer.name_or_path
        where = f"{Path(folder) / WHOLE_FILE}: " if folder else "the tokenizer: "
        raise MGMError(
            f"{where}{shown(token)} is token {ids[token]}, and the model has {rows} embeddings; "
            "copy tokenizer and weights from one model"
        )


def leading_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids that a tokenizer prepends to each text: its BOS token, or none."""
    first = tokenizer("").input_ids[:1]
    return first if first == [tokenizer.bos_token_id] else []


def encode_chunk(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """Token ids of `text` without leading ids, and the offset in `text` at which each starts.

    Raises:
        RuntimeError: the tokenizer panicked, since its files are broken.
    """
    pre = tokenizer.backend_tokenizer.pre_tokenizer
    # Compat: unlike sentencepiece, tokenizers prepends no space to a text that starts with one;
    # both treat the character "\u2581" as a space.
    shift = int(
        isinstance(pre, pre_tokenizers.Metaspace)
        and pre.prepend_scheme == "first"
        and text.startswith((" ", _SPACE))
    )
    with panics_as_errors():  # a broken normalizer may fail on some texts only
        encoded = tokenizer(
            " " * shift + text,
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
    starts, last_end = [], 0
    for start, end in encoded["offset_mapping"]:
        # In some tokenizers (`trim_offsets`) a token of spaces has an empty span after the
        # spaces; it starts at the end of the token before.
        starts.append(max((start if start < end else last_end) - shift, 0))
        last_end = max(last_end, end) if start < end else last_end
    return encoded["input_ids"], starts


def _is_llama_sentencepiece(folder: Path) -> bool:
    # Compat: if both files exist, the published code reads tokenizer.model.
    kind = read_tokenizer_config(folder).get("tokenizer_class") or _LLAMA
    return is_present(folder / SENTENCEPIECE_FILE) and kind == _LLAMA


def _from_sentencepiece(folder: Path) -> PreTrainedTokenizerFast:
    """Build a fast tokenizer with the token ids of the slow LlamaTokenizer of transformers 4.

    transformers 5 needs protobuf to read the file, and ignores `legacy`.
    """
    from sentencepiece import SentencePieceProcessor

    sentencepiece = SentencePieceProcessor(model_file=str(folder / SENTENCEPIECE_FILE))
    vocabulary = {sentencepiece.id_to_piece(i): i for i in range(sentencepiece.vocab_size())}
    settings = read_tokenizer_config(folder)
    backend = Tokenizer(
        BPE(
            vocab=vocabulary,
            merges=_merges(sentencepiece, vocabulary),
            unk_token=sentencepiece.id_to_piece(sentencepiece.unk_id()),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    if settings.get("legacy", True):  # prepends a space to each text between special tokens
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)]
        )
    else:  # prepends a space to the whole text
        backend.pre_tokenizer = pre_tokenizers.Metaspace(
            _SPACE, prepend_scheme="first", split=False
        )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special_tokens = {
        name: _added_token(settings.get(name) or usual)
        for name, usual in (("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"))
    }
    if settings.get("pad_token"):
        special_tokens["pad_token"] = _added_token(settings["pad_token"])
    backend.add_special_tokens(_added_tokens(folder, settings, list(special_tokens.values())))
    bos = special_tokens["bos_token"].content
    if settings.get("add_bos_token", True):
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos} $B",
            special_tokens=[(bos, backend.token_to_id(bos))],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{name: token.content for name, token in special_tokens.items()},
        model_max_length=settings.get("model_max_length"),
        clean_up_tokenization_spaces=False,
    )


def _merges(sentencepiece: Any, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """BPE merges: all pairs of tokens whose concatenation is a token, by SentencePiece's scores."""
    merges = []
    for token, index in vocabulary.items():
        if any(
            is_kind(index)
            for is_kind in (
                sentencepiece.is_control,
                sentencepiece.is_unknown,
                sentencepiece.is_byte,
            )
        ):
            continue
        splits = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        pairs = [pair for pair in splits if pair[0] in vocabulary and pair[1] in vocabulary]
        pairs.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        merges += [(sentencepiece.get_score(index), pair) for pair in pairs]
    merges.sort(key=lambda merge: -merge[0])
    return [pair for _, pair in merges]


def _added_tokens(
    folder: Path, settings: dict[str, Any], special_tokens: list[AddedToken]
) -> list[AddedToken]:
    """Added tokens in the order of their ids, preceded by special tokens without an id."""
    tokens = {
        int(index): _added_token(token)
        for index, token in settings.get("added_tokens_decoder", {}).items()
    }
    described = {token.content: token for token in tokens.values()}
    tokens |= {
        index: described.get(content, _added_token(content))
        for content, index in read_added_tokens(folder).items()
    }
    contents = {token.content for token in tokens.values()}
    first = [token for token in special_tokens if token.content not in contents]
    return [*first, *(tokens[index] for index in sorted(tokens))]


def _added_token(token: str | dict[str, Any]) -> AddedToken:
    """Parse a token of tokenizer_config.json, with its `lstrip`, `rstrip` and `single_word`."""
    flags = token if isinstance(token, dict) else {"content": token}
    return AddedToken(
        flags["content"],
        lstrip=flags.get("lstrip", False),
        rstrip=flags.get("rstrip", False),
        single_word=flags.get("single_word", False),
        normalized=False,
    )
