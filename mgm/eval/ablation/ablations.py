"""Ablations at test time: the same weights and questions, with one part of the vision side changed.

Each is a `FusionConfig` that the engine's model reads while it answers; its answers have keys of
their own.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from mgm.engine.engine import Engine
from mgm.errors import MGMError
from mgm.eval.harness.models import EngineAnswerer
from mgm.eval.harness.question import Question, SkippedQuestion
from mgm.eval.harness.response_cache import AnswerCache
from mgm.eval.harness.runner import run
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.vision.fusion.fusion_config import NONE, ONE_QUERY, POOL, FusionConfig

logger = logging.getLogger("mgm.eval")

CALIBRATION_IMAGES = 32  # whose tokens' mean query stands for that of every token
HR_OFF, GREY_VIT = "hr_off", "grey_vit"
_Change = Callable[[FusionConfig, MGMConfig, int], FusionConfig]


@dataclass(frozen=True)
class _Kind:
    """What an ablation changes.

    Attributes:
        description: for tables; `{}` stands for the number behind the name.
        change: makes the settings of a model's own, of its config and that number.
        number: what the name means without one; None: the name takes none.
    """

    description: str
    change: _Change
    number: int | None = None


def _blur(fusion: FusionConfig, config: MGMConfig, side: int) -> FusionConfig:
    """To what the low-resolution encoder sees, unless a number is given."""
    return replace(fusion, blur_high_resolution=side or config.image_size * config.image_grid)


KINDS: Mapping[str, _Kind] = {
    HR_OFF: _Kind("high-resolution branch off (mined = 0)", lambda f, c, n: replace(f, mode=NONE)),
    GREY_VIT: _Kind("ViT sees grey", lambda f, c, n: replace(f, grey_low_resolution=True)),
    "hr_only": _Kind(
        "ViT's tokens not added", lambda f, c, n: replace(f, high_resolution_only=True)
    ),
    "pool": _Kind("mean of the window instead of attention", lambda f, c, n: replace(f, mode=POOL)),
    "one_query": _Kind(
        "one fixed query for all tokens of all images", lambda f, c, n: replace(f, mode=ONE_QUERY)
    ),
    "shift": _Kind(
        "maps shifted by {} whole window(s)", lambda f, c, n: replace(f, window_shift=n), 1
    ),
    "blur": _Kind("high-resolution image blurred to {} pixels", _blur, 0),
    "stage_mean": _Kind(
        "map of stage {} (1 is the finest) replaced by its mean",
        lambda f, c, n: replace(f, averaged_stages=(n,)),
        4,
    ),
}
ALL = (HR_OFF, GREY_VIT, "hr_only", "pool", "one_query", "shift", "blur")
ALL += tuple(f"stage_mean:{number}" for number in range(4, 0, -1))
GROUPS: Mapping[str, tuple[str, ...]] = {"all": ALL, "utilisation": (HR_OFF, GREY_VIT)}
NAMES = (
    "hr_off, grey_vit, hr_only, pool, one_query, shift[:WINDOWS], blur[:PIXELS], "
    "stage_mean[:STAGE], utilisation (hr_off and grey_vit), all"
)


@dataclass(frozen=True)
class Ablation:
    """One change of a model at test time.

    Attributes:
        kind: what is changed, a name of `KINDS`.
        number: how much, such as pixels; 0 where there is none, or the model's own decides.
    """

    kind: str
    number: int = 0

    @property
    def name(self) -> str:
        """As `--ablate` takes it; two that differ have different names."""
        return f"{self.kind}:{self.number}" if self.number else self.kind

    @property
    def description(self) -> str:
        """What is changed, in words."""
        return KINDS[self.kind].description.format(self.number or "the ViT's own")

    def fusion(self, config: MGMConfig) -> FusionConfig:
        """The settings with which the model of a config is asked; a fixed query is still missing.

        Raises:
            MGMError: the model cannot be run so, or is so already.
        """
        try:
            fusion = KINDS[self.kind].change(config.fusion, config, self.number)
            fusion.check_model(config)
        except MGMError as error:
            raise MGMError(f"--ablate {self.name}: {error}") from error
        if fusion == config.fusion:
            raise MGMError(f"--ablate {self.name}: the model's config.json says so already")
        return fusion


def parse_ablations(names: Sequence[str]) -> list[Ablation]:
    """What `--ablate` names, in that order, each once.

    Raises:
        MGMError: there is no such ablation; the message lists them.
    """
    found: dict[Ablation, None] = {}
    for name in names:
        for one in GROUPS.get(name, (name,)):
            found[_parse(one)] = None
    return list(found)


def _parse(name: str) -> Ablation:
    kind, colon, text = name.partition(":")
    if kind not in KINDS:
        raise MGMError(f"--ablate {name}: no such ablation; valid: {NAMES}")
    number = KINDS[kind].number
    if not colon:
        return Ablation(kind, number or 0)
    if number is None:
        raise MGMError(f"--ablate {name}: takes no number; write --ablate {kind}")
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise MGMError(f"--ablate {name}: {text!r} is no number from 1")
    return Ablation(kind, int(text))


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


def _fixed_query(engine: Engine, images: Sequence[Question]) -> tuple[float, ...] | None:
    """The mean query of all tokens of some images; None: none can be opened."""
    queries = []
    for one in images:
        try:
            opened = engine.open_image(one.images[0], orientation=one.orientation)
        except MGMError:
            continue
        pixels = engine.processor.image_processor(opened, do_normalize=False)["pixel_values_aux"]
        call = partial(engine.model.mean_query, pixels.to(engine.model.device))
        queries.append(engine.compute(call))
    return tuple(torch.stack(queries).mean(0).tolist()) if queries else None
