"""What ends an answer: tokens, and texts where the model has no token for it."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from mgm.data.templates import Template


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
