"""Ablations at test time: the same weights and questions, with one part of the vision side changed.

Each is a `FusionConfig` that the engine's model reads while it answers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mgm.errors import MGMError
from mgm.model.vision.fusion.fusion_config import NONE, ONE_QUERY, POOL, FusionConfig

if TYPE_CHECKING:
    from mgm.model.configuration_mgm import MGMConfig

HR_OFF, GREY_VIT = "hr_off", "grey_vit"


@dataclass(frozen=True)
class _Kind:
    """What an ablation changes.

    Attributes:
        description: for tables; `{}` stands for the number behind the name.
        change: makes fusion settings of a model's own and the number.
        default: number where the name has none, of the model's config; None: it takes no number.
    """

    description: str
    change: Callable[[FusionConfig, int], FusionConfig]
    default: "Callable[[MGMConfig], int] | None" = None


KINDS: Mapping[str, _Kind] = {
    HR_OFF: _Kind("high-resolution branch off (mined = 0)", lambda f, n: replace(f, mode=NONE)),
    GREY_VIT: _Kind("ViT sees grey", lambda f, n: replace(f, grey_low_resolution=True)),
    "hr_only": _Kind("ViT's tokens not added", lambda f, n: replace(f, high_resolution_only=True)),
    "pool": _Kind("mean of the window instead of attention", lambda f, n: replace(f, mode=POOL)),
    "one_query": _Kind(
        "one fixed query for all tokens of all images", lambda f, n: replace(f, mode=ONE_QUERY)
    ),
    "shift": _Kind(
        "maps shifted by {} whole window(s)", lambda f, n: replace(f, window_shift=n), lambda c: 1
    ),
    "blur": _Kind(
        "high-resolution image blurred to {} pixels",
        lambda f, n: replace(f, blur_high_resolution=n),
        lambda c: c.image_size * c.image_grid,  # what the low-resolution encoder sees
    ),
    "stage_mean": _Kind(
        "map of stage {} (1 is the finest) replaced by its mean",
        lambda f, n: replace(f, averaged_stages=(n,)),
        lambda c: 4,
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
        number: how much, such as pixels; 0: the kind has no number.
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
        return KINDS[self.kind].description.format(self.number)

    def fusion(self, config: "MGMConfig") -> FusionConfig:
        """The settings with which the model of a config is asked; a fixed query is still missing.

        Raises:
            MGMError: the model cannot be run so, or is so already.
        """
        try:
            fusion = KINDS[self.kind].change(config.fusion, self.number)
            fusion.check_model(config)
        except MGMError as error:
            raise MGMError(f"--ablate {self.name}: {error}") from error
        if fusion == config.fusion:
            raise MGMError(f"--ablate {self.name}: the model's config.json says so already")
        return fusion


def check_names(names: Sequence[str]) -> None:
    """Raise an MGMError, which lists the ablations, if a name of `--ablate` is none of them."""
    for name in _expanded(names):
        _parse(name)


def parse_ablations(names: Sequence[str], config: "MGMConfig") -> list[Ablation]:
    """The ablations of a model that `--ablate` names, in that order, each once.

    Args:
        names: of ablations and of groups of them.
        config: of the model; where a name has no number, it comes from here, so that `blur` and
            `blur:336` are one ablation of a model that sees 336 pixels.

    Raises:
        MGMError: there is no such ablation, or the model cannot be run with it.
    """
    found: dict[Ablation, None] = {}
    for name in _expanded(names):
        kind, number = _parse(name)
        default = KINDS[kind].default
        if number is None:
            number = 0 if default is None else default(config)
        one = Ablation(kind, number)
        one.fusion(config)
        found[one] = None
    return list(found)


def _expanded(names: Sequence[str]) -> list[str]:
    return [one for name in names for one in GROUPS.get(name, (name,))]


def _parse(name: str) -> tuple[str, int | None]:
    """Kind and number of a name; None: it has none."""
    kind, colon, text = name.partition(":")
    if kind not in KINDS:
        raise MGMError(f"--ablate {name}: no such ablation; valid: {NAMES}")
    if not colon:
        return kind, None
    if KINDS[kind].default is None:
        raise MGMError(f"--ablate {name}: takes no number; write --ablate {kind}")
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text)):
        raise MGMError(f"--ablate {name}: {text!r:.40} is no number from 1")
    return kind, int(text)
