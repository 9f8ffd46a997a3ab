"""Beam search by transformers' `generate`, one sequence at a time."""

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from mgm.engine.core.device_errors import as_request_error, is_device_failure
from mgm.engine.core.errors import GenerationError
from mgm.engine.core.sampler import MESSAGES, NOT_FINITE
from mgm.engine.core.sampling_params import SampledToken
from mgm.engine.core.sequence import Sequence
from mgm.model.modeling_mgm import MGMForConditionalGeneration


@torch.inference_mode()
def beam_search(
    model: MGMForConditionalGeneration,
    sequence: Sequence,
    num_beams: int,
    vocabulary_size: int | None = None,
) -> None:
    """Generate the complete output of a sequence; an error fails this sequence alone.

    Args:
        model: the model.
        sequence: a sequence without output.
        num_beams: the beam width.
        vocabulary_size: only token ids below it are chosen; None: all that the model has.

    Raises:
        torch.AcceleratorError: the device failed.
    """
    try:
        _beam_search(model, sequence, num_beams, vocabulary_size)
    except Exception as error:
        sequence.fail(as_request_error(error, "running beam search"))
        if is_device_failure(error):
            raise


class _FiniteLogits(LogitsProcessor):
    """Raises an error at logits that are not finite."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Check the scores, and return them unchanged."""
        if not scores.amax(-1).isfinite().all():
            raise GenerationError(MESSAGES[NOT_FINITE])
        return scores


def _beam_search(
    model: MGMForConditionalGeneration,
    sequence: Sequence,
    num_beams: int,
    vocabulary_size: int | None,
) -> None:
    model_vocabulary = model.config.text_config.vocab_size
    suppressed = list(range(vocabulary_size or model_vocabulary, model_vocabulary))
    features = torch.stack(sequence.image_features) if sequence.image_features else None
    generator: Any = model  # transformers types the mixin's `self` as its own classes
    ids = generator.generate(
        input_ids=torch.tensor([sequence.prompt_ids], device=model.device),
        image_features=features,
        num_beams=num_beams,
        do_sample=False,
        max_new_tokens=sequence.max_new_tokens,
        eos_token_id=sorted(sequence.stop_ids) or None,
        suppress_tokens=suppressed or None,
        max_time=sequence.timeout,
        logits_processor=[_FiniteLogits()],
    )
    timed_out = sequence.timed_out
    sequence.timeout = None  # the output is complete and is appended as a whole
    for token in ids[0, len(sequence.prompt_ids) :].tolist():
        if sequence.finish_reason is None:
            sequence.append_token(SampledToken(token))
    sequence.finish("length" if timed_out else "stop")
