"""The likeliest answer as a whole, by transformers' beam search."""

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from mgm.engine.core.errors import GenerationError
from mgm.engine.core.faults import as_fault, is_device_failure
from mgm.engine.core.sampler import MESSAGES, NOT_FINITE
from mgm.engine.core.sampling import Choice
from mgm.engine.core.sequence import Generation
from mgm.model.modeling_mgm import MGMForConditionalGeneration


@torch.inference_mode()
def search(
    model: MGMForConditionalGeneration,
    generation: Generation,
    beams: int,
    vocabulary: int | None = None,
) -> None:
    """Write an answer at once. What is raised ends it, and no other.

    Args:
        model: what answers.
        generation: the answer, not begun.
        beams: answers that are looked at side by side.
        vocabulary: only ids below it are chosen; None: any that the model has.

    Raises:
        torch.AcceleratorError: the device failed.
    """
    try:
        _search(model, generation, beams, vocabulary)
    except Exception as error:
        generation.fail(as_fault(error, "searching for the likeliest answer"))
        if is_device_failure(error):
            raise


class _FiniteLogits(LogitsProcessor):
    """Ends a search whose logits are no numbers."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See transformers."""
        if not scores.amax(-1).isfinite().all():
            raise GenerationError(MESSAGES[NOT_FINITE])
        return scores


def _search(
    model: MGMForConditionalGeneration, generation: Generation, beams: int, vocabulary: int | None
) -> None:
    rows = model.config.text_config.vocab_size
    features = torch.stack(generation.features) if generation.features else None
    writer: Any = model  # whose mixin transformers types as its own kind alone
    written = writer.generate(
        input_ids=torch.tensor([generation.prompt_ids], device=model.device),
        image_features=features,
        num_beams=beams,
        do_sample=False,
        max_new_tokens=generation.limit,
        eos_token_id=sorted(generation.stop_ids) or None,
        suppress_tokens=list(range(vocabulary, rows)) if vocabulary and vocabulary < rows else None,
        max_time=generation.seconds,
        logits_processor=[_FiniteLogits()],
    )
    late = generation.late
    generation.seconds = None  # what is found is all written
    for token in written[0, len(generation.prompt_ids) :].tolist():
        if generation.finish_reason is None:
            generation.push(Choice(token))
    generation.finish("length" if late else "stop")
