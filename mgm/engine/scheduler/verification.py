"""Samples the next tokens of a batch, and verifies drafts: accepted up to the first mismatch."""

from collections import abc

from torch import Tensor

from mgm.engine.core.device_errors import as_request_error
from mgm.engine.core.sampler import sample
from mgm.engine.core.sampling_params import SampledToken
from mgm.engine.core.sequence import Sequence
from mgm.engine.scheduler.ngram_drafter import MAX_NGRAM, Draft, NGramDrafter


def sample_and_verify(
    logits: Tensor,
    sequences: abc.Sequence[Sequence],
    drafts: abc.Sequence[Draft],
    drafter: NGramDrafter,
) -> list[int]:
    """Append sampled tokens to sequences, and notify their listeners.

    A sequence gets one token, and one more for every draft token that equals the sampled one.

    Args:
        logits: (sequences, tokens, vocabulary) after each token of a step, left-padded.
        sequences: sequences of the batch.
        drafts: draft of each row, its last tokens.
        drafter: updated with the new tokens.

    Returns:
        How many tokens of each draft were accepted.
    """
    draft_ids = [draft.tokens for draft in drafts]
    recent = [sequence.last_ids(MAX_NGRAM) for sequence in sequences]
    accepted = [0] * len(sequences)
    rows = list(range(len(sequences)))
    while rows:
        offsets = [accepted[row] - len(draft_ids[row]) - 1 for row in rows]
        results = sample(logits[rows, offsets], [sequences[row].sampler for row in rows])
        continuing = []
        for row, result in zip(rows, results, strict=True):
            if not isinstance(result, SampledToken):
                sequences[row].fail(as_request_error(result, "sampling a token"))
                continue
            recent[row].append(result.token)
            if sequences[row].finish_reason is None:
                sequences[row].append_token(result)
            if sequences[row].finish_reason is not None or accepted[row] == len(draft_ids[row]):
                continue
            if draft_ids[row][accepted[row]] == result.token:
                accepted[row] += 1
                continuing.append(row)
        rows = continuing
    for row, sequence in enumerate(sequences):
        if sequence.error is None:
            drafter.update(recent[row], accepted[row] + 1)
            sequence.notify()
    return accepted
