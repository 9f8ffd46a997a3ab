"""What ends an answer: tokens, and texts where the model has no token for it."""

from dataclasses import dataclass

from transformers import GenerationConfig, PreTrainedTokenizerBase

from mgm.data.text.templates import Template
from mgm.data.text.tokenizer import check_vocabulary, vocabulary_size


@dataclass(frozen=True)
class Stops:
    """Token ids and texts that end an answer; neither is part of it."""

    ids: frozenset[int]
    texts: tuple[str, ...]


def stops_of(
    tokenizer: PreTrainedTokenizerBase, template: Template, *configured: int | list[int] | None
) -> Stops:
    """What ends an answer of a model.

    Args:
        tokenizer: its end token does.
        template: so does its stop text, as a token where it is a special one.
        *configured: so do the end tokens that the model's configurations name.
    """
    ids: set[int] = set()
    for given in (tokenizer.eos_token_id, *configured):
        if given is not None:
            ids |= {given} if isinstance(given, int) else set(given)
    texts = ()
    if template.stop in {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}:
        ids.add(tokenizer.get_vocab()[template.stop])
    elif template.stop:
        texts = (template.stop,)
    return Stops(frozenset(ids), texts)


def align_generation(
    generation: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    rows: int = 0,
) -> None:
    """Make transformers' own `generate` begin, pad and stop as the model was taught.

    Compat: it never chooses an id that the tokenizer has no token for, as if its row were cut off.

    Saved with the model, it needs none of this project's code. A stop text that is no token of the
    tokenizer is left to the engine.

    Args:
        generation: of the model; what it names as end tokens stays.
        tokenizer: of the model.
        template: of the model.
        rows: ids that the model has.

    Raises:
        MGMError: the vocabulary goes beyond the model's, as that of another model.
    """
    if rows:
        check_vocabulary(tokenizer, rows)
    spare = list(range(vocabulary_size(tokenizer), rows))
    if spare:
        generation.suppress_tokens = spare
    for name in ("bos_token_id", "pad_token_id"):
        if getattr(tokenizer, name) is not None:
            setattr(generation, name, getattr(tokenizer, name))
    stops = stops_of(tokenizer, template, generation.eos_token_id)
    generation.eos_token_id = sorted(stops.ids)
