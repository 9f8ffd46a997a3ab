"""Stop criteria of a response: end-of-sequence token ids and stop strings."""

from dataclasses import dataclass

from transformers import GenerationConfig, PreTrainedTokenizerBase

from mgm.data.text.templates import Template
from mgm.data.text.tokenizer import check_vocabulary, vocabulary_size


@dataclass(frozen=True)
class StopCriteria:
    """Token ids and strings that end a response; neither is part of it."""

    token_ids: frozenset[int]
    strings: tuple[str, ...]


def stop_criteria_of(
    tokenizer: PreTrainedTokenizerBase, template: Template, *configured: int | list[int] | None
) -> StopCriteria:
    """Stop token ids and stop strings of a model.

    Args:
        tokenizer: of the model; its end-of-sequence token stops.
        template: of the model; its stop string stops, as a token where the tokenizer has one.
        *configured: `eos_token_id` of the model's configurations.
    """
    ids: set[int] = set()
    for given in (tokenizer.eos_token_id, *configured):
        if given is not None:
            ids |= {given} if isinstance(given, int) else set(given)
    strings = ()
    if template.stop in {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}:
        ids.add(tokenizer.get_vocab()[template.stop])
    elif template.stop:
        strings = (template.stop,)
    return StopCriteria(frozenset(ids), strings)


def sync_generation_config(
    generation: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    rows: int = 0,
) -> None:
    """Set begin, padding and end token ids of a generation config as the model was trained.

    Saved with the model, it makes transformers' `generate` stop without this project's code. A stop
    string that is no token of the tokenizer is left to the engine.

    Compat: ids without a token in the tokenizer are suppressed, as if embeddings were cut off.

    Args:
        generation: of the model; its own end-of-sequence tokens stay.
        tokenizer: of the model.
        template: of the model.
        rows: embeddings of the model.

    Raises:
        MGMError: the vocabulary goes beyond the model's, as that of another model.
    """
    if rows:
        check_vocabulary(tokenizer, rows)
    unused = list(range(vocabulary_size(tokenizer), rows))
    if unused:
        generation.suppress_tokens = unused
    for name in ("bos_token_id", "pad_token_id"):
        if getattr(tokenizer, name) is not None:
            setattr(generation, name, getattr(tokenizer, name))
    criteria = stop_criteria_of(tokenizer, template, generation.eos_token_id)
    generation.eos_token_id = sorted(criteria.token_ids)
