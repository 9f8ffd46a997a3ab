"""Ablations of the vision side at inference: the same weights with another `FusionConfig`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mgm.errors import MGMError

if TYPE_CHECKING:
    from mgm.model.configuration_mgm import MGMConfig
    from mgm.model.vision.fusion.fusion_config import FusionConfig

HR_OFF, GREY_VIT = "hr_off", "grey_vit"


@dataclass(frozen=True)
class _AblationKind:
    """A kind of ablation.

    Attributes:
        description: description for tables; `{}` is replaced by the number.
        change: returns the fusion settings, given those of the model and the number.
        default: computes the default number from the model's config; None: takes no number.
    """

    description: str
    change: "Callable[[FusionConfig, int], FusionConfig]"
    default: "Callable[[MGMConfig], int] | None" = None


ABLATION_KINDS: Mapping[str, _AblationKind] = {
    HR_OFF: _AblationKind(
        "high-resolution branch off (mined = 0)", lambda f, n: f.without_high_resolution()
    ),
    GREY_VIT: _AblationKind("ViT sees grey", lambda f, n: replace(f, grey_low_resolution=True)),
    "hr_only": _AblationKind(
        "ViT's tokens not added", lambda f, n: replace(f, high_resolution_only=True)
    ),
    "pool": _AblationKind(
        "mean of the window instead of attention", lambda f, n: replace(f, mode="pool")
    ),
    "one_query": _AblationKind(
        "one fixed query for all tokens of all images", lambda f, n: replace(f, mode="one_query")
    ),
    "shift": _AblationKind(
        "maps shifted by {} whole window(s)", lambda f, n: replace(f, window_shift=n), lambda c: 1
    ),
    "blur": _AblationKind(
        "high-resolution image blurred to {} pixels",
        lambda f, n: replace(f, blur_high_resolution=n),
        lambda c: c.image_size * c.image_grid,  # the resolution of the low-resolution encoder
    ),
    "stage_mean": _AblationKind(
        "map of stage {} (1 is the finest) replaced by its mean",
        lambda f, n: replace(f, averaged_stages=(n,)),
        lambda c: 4,
    ),
}
ALL_ABLATIONS = (HR_OFF, GREY_VIT, "hr_only", "pool", "one_query", "shift", "blur")
ALL_ABLATIONS += tuple(f"stage_mean:{number}" for number in range(4, 0, -1))
ABLATION_GROUPS: Mapping[str, tuple[str, ...]] = {
    "all": ALL_ABLATIONS,
    "utilisation": (HR_OFF, GREY_VIT),
}
ABLATION_HELP = (
    "hr_off, grey_vit, hr_only, pool, one_query, shift[:WINDOWS], blur[:PIXELS], "
    "stage_mean[:STAGE], utilisation (hr_off and grey_vit), all"
)


@dataclass(frozen=True)
class Ablation:
    """An ablation with its number.

    Attributes:
        kind: key of `ABLATION_KINDS`.
        number: such as pixels; 0: the kind takes no number.
    """

    kind: str
    number: int = 0

    @property
    def name(self) -> str:
        """The unique name in `--ablate`, such as `blur:168`."""
        return f"{self.kind}:{self.number}" if self.number else self.kind

    @property
    def description(self) -> str:
        """The change in words, for tables."""
        return ABLATION_KINDS[self.kind].description.format(self.number)

    def fusion(self, config: "MGMConfig") -> "FusionConfig":
        """The fusion settings of an ablated model; those of `one_query` still lack the query.

        Raises:
            MGMError: the model does not support the ablation, or is configured so already.
        """
        try:
            fusion = ABLATION_KINDS[self.kind].change(config.fusion, self.number)
            fusion.check_inference(config)
        except MGMError as error:
            raise MGMError(f"--ablate {self.name}: {error}") from error
        if fusion == config.fusion:
            raise MGMError(f"--ablate {self.name}: the model's config.json already has it")
        return fusion


def check_ablation_names(names: Sequence[str]) -> None:
    """Raise an MGMError that lists the ablations if a name of `--ablate` is unknown."""
    for name in _expand_groups(names):
        _parse(name)


def parse_ablations(names: Sequence[str], config: "MGMConfig") -> list[Ablation]:
    """Parse the names of `--ablate`: in order, without duplicates.

    Args:
        names: names of ablations and groups of ablations. Of a group, those that a model with
            another fusion than mining does not support are left out.
        config: of the model, for default numbers: `blur` and `blur:336` are the same ablation of a
            model with 336 pixels.

    Raises:
        MGMError: unknown ablation, or the model does not support it.
    """
    ablations: dict[Ablation, None] = {}
    for name in names:
        members = ABLATION_GROUPS.get(name, (name,))
        supported = [_resolve(member, config) for member in members]
        if len(members) > 1 and config.fusion.to_json():
            supported = [ablation for ablation in supported if _is_supported(ablation, config)]
        for ablation in supported:
            ablation.fusion(config)
            ablations[ablation] = None
    return list(ablations)


def _resolve(name: str, config: "MGMConfig") -> Ablation:
    """The ablation of a name, with the default number where it has none."""
    kind, number = _parse(name)
    default = ABLATION_KINDS[kind].default
    if number is None:
        number = 0 if default is None else default(config)
    return Ablation(kind, number)


def _is_supported(ablation: Ablation, config: "MGMConfig") -> bool:
    try:
        ablation.fusion(config)
    except MGMError:
        return False
    return True


def _expand_groups(names: Sequence[str]) -> list[str]:
    return [member for name in names for member in ABLATION_GROUPS.get(name, (name,))]


def _parse(name: str) -> tuple[str, int | None]:
    """Split a name into kind and number; None: the name has no number."""
    kind, colon, text = name.partition(":")
    if kind not in ABLATION_KINDS:
        raise MGMError(f"--ablate {name}: unknown ablation; valid: {ABLATION_HELP}")
    if not colon:
        return kind, None
    if ABLATION_KINDS[kind].default is None:
        raise MGMError(f"--ablate {name}: takes no number; write --ablate {kind}")
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text)):
        raise MGMError(f"--ablate {name}: {text!r:.40} is not a positive number")
    return kind, int(text)
