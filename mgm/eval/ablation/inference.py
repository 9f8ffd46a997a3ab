"""Asks questions with an ablation; the answers have cache keys of their own."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from mgm.errors import MGMError
from mgm.eval.ablation.definitions import Ablation
from mgm.eval.harness.models import EngineAnswerer
from mgm.eval.harness.question import Question, SkippedQuestion
from mgm.eval.harness.response_cache import AnswerCache
from mgm.eval.harness.runner import run

if TYPE_CHECKING:
    from mgm.engine.engine import Engine

CALIBRATION_IMAGES = 32  # whose tokens' mean query stands for that of every token


def ablation_cache(
    cache: AnswerCache, ablation: Ablation, questions: Sequence[Question]
) -> AnswerCache:
    """The answers that are given with an ablation, in the files of the others.

    Args:
        cache: of the full model.
        ablation: the change.
        questions: of one benchmark; a fixed query comes from their images.
    """
    settings = ablation.name
    if ablation.kind == "one_query":
        settings += "".join(cache.key(one) for one in _calibration_images(questions, cache))
    return cache.variant(settings)


def run_ablation(
    ablation: Ablation,
    questions: Sequence[Question],
    answerer: EngineAnswerer,
    cache: AnswerCache,
    process: int = 0,
    processes: int = 1,
    title: str = "",
) -> list[SkippedQuestion]:
    """Have every question answered with an ablation that was not yet; see `runner.run`.

    Args:
        ablation: the change; the model is as before in the end.
        questions: of one benchmark.
        answerer: the engine.
        cache: of the full model.
        process: the number of this one.
        processes: that share the work.
        title: of the progress bar; empty: there is none.

    Returns:
        What this process could not ask.

    Raises:
        MGMError: the model cannot be run so, or no question can be answered any more.
    """
    engine = answerer.engine
    before = engine.fusion
    fusion = ablation.fusion(engine.model.config)
    if ablation.kind == "one_query":
        fusion = replace(fusion, query=_fixed_query(engine, _calibration_images(questions, cache)))
    own = ablation_cache(cache, ablation, questions)
    engine.fusion = fusion
    try:
        return run(questions, answerer, own, process, processes, title)
    finally:
        engine.fusion = before


def _calibration_images(questions: Sequence[Question], cache: AnswerCache) -> list[Question]:
    """The first images of a benchmark, each with how it is seen: questions without a text."""
    images: dict[str, Question] = {}
    for question in questions:
        for image in question.images:
            one = Question("", "", (image,), orientation=question.orientation)
            try:
                images.setdefault(cache.key(one), one)
            except MGMError:  # its own questions are skipped, and named
                continue
            if len(images) == CALIBRATION_IMAGES:
                return list(images.values())
    return list(images.values())


def _fixed_query(engine: "Engine", images: Sequence[Question]) -> tuple[float, ...] | None:
    """The mean query of all tokens of some images; None: none can be opened."""
    import torch

    queries = []
    for one in images:
        try:
            opened = engine.images.open(one.images[0], orientation=one.orientation)
        except MGMError:
            continue
        pixels = engine.processor.image_processor(opened, do_normalize=False)["pixel_values_aux"]
        call = partial(engine.model.mean_query, pixels.to(engine.model.device))
        queries.append(engine.run_in_engine(call))
    return tuple(torch.stack(queries).mean(0).tolist()) if queries else None
