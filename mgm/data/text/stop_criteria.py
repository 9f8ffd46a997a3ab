"""Stop criteria of a response: end-of-sequence token ids and stop strings."""

from dataclasses import dataclass

from transformers import GenerationConfig, PreTrainedTokenizerBase

from mgm.data.text.templates import ConversationTemplate
from mgm.data.text.tokenizer import check_vocabulary, vocabulary_size


@dataclass(frozen=True)
class StopCriteria:
    """Token ids and strings that end a response, and are not part of it."""

    token_ids: frozenset[int]
    strings: tuple[str, ...]


def stop_criteria_of(
    tokenizer: PreTrainedTokenizerBase,
    template: ConversationTemplate,
    *configured: int | list[int] | None,
) -> StopCriteria:
    """Stop token ids and stop strings of a model.

    Args:
        tokenizer: tokenizer of the model; its end-of-sequence token is a stop token.
        template: of the model; its stop string is a stop token if the tokenizer has that token.
        *configured: `eos_token_id` of the model's configs.
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
    template: ConversationTemplate,
    rows: int = 0,
) -> None:
    """Set the BOS, padding and EOS token ids of a generation config.

    Saved with the model, it makes transformers' `generate` stop without code of this project. A
    stop string that is not a token is handled by the engine only.

    Compat: token ids that the tokenizer lacks are suppressed in generation.

    Args:
        generation: config to change; its own EOS tokens are kept.
        tokenizer: tokenizer of the model.
        template: template of the model.
        rows: number of the model's embeddings.

    Raises:
        MGMError: the vocabulary is larger than the model's, as that of another model.
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
