"""`FusionConfig`: how high-resolution features are fused into the low-resolution tokens."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from mgm.errors import MGMError
from mgm.model.files.json_fields import (
    BOOLEAN,
    Rule,
    check_fields,
    integer,
    list_of,
    number,
    one_of,
    optional,
    shown,
)

FUSION_MODES = MINING, POOL, ONE_QUERY, NONE = "mining", "pool", "one_query", "none"

_RULES: Mapping[str, Rule] = {
    "mode": one_of(*FUSION_MODES),
    "high_resolution_only": BOOLEAN,
    "grey_low_resolution": BOOLEAN,
    "blur_high_resolution": optional(integer(1)),
    "averaged_stages": list_of(integer(1)),
    "window_shift": integer(0),
    "query": optional(list_of(number())),
}
# Fields that need high-resolution features: no effect, or no tokens left, in mode "none".
_HIGH_RESOLUTION_FIELDS = (
    "high_resolution_only",
    "blur_high_resolution",
    "averaged_stages",
    "window_shift",
)


@dataclass(frozen=True)
class FusionConfig:
    """How both towers' outputs are combined into image tokens; the default is the published model.

    Other values use the same weights: as ablations of a model that was trained with patch info
    mining, or for a model that was trained with other settings in `config.json`.

    Attributes:
        mode: "mining": patch info mining, each token attends to its window of the high-resolution
            maps; "pool": mean of the window instead of attention; "one_query": attention with the
            same query for all tokens; "none": low-resolution tokens alone.
        high_resolution_only: whether the mined features replace the low-resolution tokens instead
            of being added to them. The tokens are still used as queries.
        grey_low_resolution: whether the low-resolution tower gets an image of the mean colour.
        blur_high_resolution: pixels per side to which the high-resolution tower's image is reduced
            and enlarged again; None: no blur.
        averaged_stages: numbers of the high-resolution tower's stages, 1 the finest, whose maps
            are replaced by their means over all positions.
        window_shift: windows by which the high-resolution maps are rolled to the right.
        query: for mode "one_query", C numbers used for all images; None: each image's mean query.

    Raises:
        MGMError: a value is not valid, or has no effect beside the others.
    """

    mode: str = MINING
    high_resolution_only: bool = False
    grey_low_resolution: bool = False
    blur_high_resolution: int | None = None
    averaged_stages: tuple[int, ...] = ()
    window_shift: int = 0
    query: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(vars(self), _RULES, "config", "fusion.")
        # JSON has lists; tuples are hashable, for cache keys.
        object.__setattr__(self, "averaged_stages", tuple(sorted(set(self.averaged_stages))))
        if self.query is not None:
            object.__setattr__(self, "query", tuple(map(float, self.query)))
        for name in _HIGH_RESOLUTION_FIELDS if self.mode == NONE else ():
            self._demand(not getattr(self, name), name, 'its default beside mode "none"')
        self._demand(
            self.query is None or self.mode == ONE_QUERY, "query", 'null, or mode "one_query"'
        )
        self._demand(self.query != (), "query", "a number for each channel, or null")

    @classmethod
    def from_json(cls, values: object) -> Self:
        """Parse the object in `config.json`; None: the default.

        Raises:
            MGMError: the value is not an object, or has an unknown field.
        """
        if isinstance(values, cls):
            return values
        if values is None:
            return cls()
        if not isinstance(values, Mapping):
            advice = f' such as {{"mode": "{values}"}}' if values in FUSION_MODES else ""
            raise MGMError(f"config: fusion is {shown(values)}; valid: an object{advice}, or null")
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                raise MGMError(f"config: fusion.{name} is no field; valid: {', '.join(names)}")
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from the default."""
        default = asdict(DEFAULT_FUSION)
        return {name: value for name, value in asdict(self).items() if value != default[name]}

    @property
    def uses_high_resolution(self) -> bool:
        """Whether the high-resolution tower's output is used."""
        return self.mode != NONE

    def check_model(self, config: Any) -> None:
        """Raise an MGMError if a model cannot be run with these settings.

        Args:
            config: the `MGMConfig` of the model.
        """
        aux = config.vision_aux_config
        if aux is None:
            missing = "the default, this model has no high-resolution encoder"
            for name in ("mode", *_HIGH_RESOLUTION_FIELDS):
                self._demand(getattr(self, name) == getattr(DEFAULT_FUSION, name), name, missing)
            return
        stages, side, width = (
            len(aux.dims),
            config.tokens_per_side,
            config.vision_config.hidden_size,
        )
        self._demand(
            self.blur_high_resolution is None or self.blur_high_resolution < config.image_size_aux,
            "blur_high_resolution",
            f"fewer pixels than image_size_aux, {config.image_size_aux}",
        )
        self._demand(
            max(self.averaged_stages, default=1) <= stages,
            "averaged_stages",
            f"numbers from 1 to {stages}, the encoder has so many stages",
        )
        self._demand(
            self.window_shift < side, "window_shift", f"below {side}, the windows of a crop's side"
        )
        self._demand(
            self.query is None or len(self.query) == width, "query", f"{width} numbers, or null"
        )

    def _demand(self, holds: bool, name: str, valid: str) -> None:
        if not holds:
            raise MGMError(f"config: fusion.{name} is {shown(getattr(self, name))}; valid: {valid}")


DEFAULT_FUSION = FusionConfig()
