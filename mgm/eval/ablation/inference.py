"""Generates responses with an ablated model; their cache keys include the ablation."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from mgm.errors import MGMError
from mgm.eval.ablation.definitions import Ablation
from mgm.eval.harness.models import EngineModel
from mgm.eval.harness.question import Question, SkippedQuestion
from mgm.eval.harness.response_cache import ResponseCache
from mgm.eval.harness.runner import generate_responses

if TYPE_CHECKING:
    from mgm.engine.engine import Engine

CALIBRATION_IMAGES = 32  # images for the mean query of `one_query`


def ablation_cache(
    cache: ResponseCache, ablation: Ablation, questions: Sequence[Question]
) -> ResponseCache:
    """The cache of responses with an ablation, in the files of the full model's cache.

    Args:
        cache: cache of the full model.
        ablation: ablation of the model.
        questions: questions of one benchmark; the fixed query is computed from their images.
    """
    settings = ablation.name
    if ablation.kind == "one_query":
        settings += "".join(
            cache.key(question) for question in _calibration_images(questions, cache)
        )
    return cache.variant(settings)


def run_ablation(
    ablation: Ablation,
    questions: Sequence[Question],
    model: EngineModel,
    cache: ResponseCache,
    rank: int = 0,
    world_size: int = 1,
    title: str = "",
) -> list[SkippedQuestion]:
    """`runner.generate_responses` with an ablated model; cached responses are not generated again.

    Args:
        ablation: applied to the model during the call.
        questions: questions of one benchmark.
        model: model to ablate.
        cache: cache of the full model.
        rank: rank of this process.
        world_size: number of processes.
        title: title of the progress bar; empty: no bar.

    Returns:
        The questions of this rank without a response.

    Raises:
        MGMError: the model does not support the ablation, or cannot respond to any question.
    """
    engine = model.engine
    original = engine.fusion
    fusion = ablation.fusion(engine.model.config)
    if ablation.kind == "one_query":
        fusion = replace(fusion, query=_fixed_query(engine, _calibration_images(questions, cache)))
    ablated_cache = ablation_cache(cache, ablation, questions)
    engine.fusion = fusion
    try:
        return generate_responses(questions, model, ablated_cache, rank, world_size, title)
    finally:
        engine.fusion = original


def _calibration_images(questions: Sequence[Question], cache: ResponseCache) -> list[Question]:
    """The first distinct images of a benchmark, as questions without text."""
    images: dict[str, Question] = {}
    for question in questions:
        for image in question.images:
            image_question = Question("", "", (image,), orientation=question.orientation)
            try:
                images.setdefault(cache.key(image_question), image_question)
            except MGMError:  # its questions are reported as skipped
                continue
            if len(images) == CALIBRATION_IMAGES:
                return list(images.values())
    return list(images.values())


def _fixed_query(engine: "Engine", images: Sequence[Question]) -> tuple[float, ...] | None:
    """The mean query over all tokens of the images; None: none of them can be opened."""
    import torch

    queries = []
    for question in images:
        try:
            image = engine.images.open(question.images[0], orientation=question.orientation)
        except MGMError:
            continue
        pixels = engine.processor.image_processor(image, do_normalize=False)["pixel_values_aux"]
        call = partial(engine.model.mean_query, pixels.to(engine.model.device))
        queries.append(engine.run_in_engine(call))
    return tuple(torch.stack(queries).mean(0).tolist()) if queries else None
