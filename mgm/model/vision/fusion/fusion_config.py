"""The settings of fusion: which detail of the high-resolution maps a token gets, and from where."""

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

MODES = MINING, POOL, ONE_QUERY, NONE = "mining", "pool", "one_query", "none"

_RULES: Mapping[str, Rule] = {
    "mode": one_of(*MODES),
    "high_resolution_only": BOOLEAN,
    "grey_low_resolution": BOOLEAN,
    "blur_high_resolution": optional(integer(1)),
    "averaged_stages": list_of(integer(1)),
    "window_shift": integer(0),
    "query": optional(list_of(number())),
}
# What changes nothing, or leaves no tokens, where no high-resolution detail is used.
_OF_DETAIL = ("high_resolution_only", "blur_high_resolution", "averaged_stages", "window_shift")


@dataclass(frozen=True)
class FusionConfig:
    """How image tokens are made of both encoders' outputs; the default is the published model.

    The other values use the same weights: they are ablations of a model that was trained with
    mining, or what `config.json` says of a model that was trained in another way.

    Attributes:
        mode: "mining": each token attends to its window of the high-resolution maps; "pool": the
            mean of the window in place of attention; "one_query": attention by one query for all
            tokens; "none": no high-resolution detail is added.
        high_resolution_only: whether low-resolution tokens are left out of the sum with the detail.
            They still make the queries of mining.
        grey_low_resolution: whether the low-resolution encoder sees its mean colour in place of the
            image.
        blur_high_resolution: pixels per side that the high-resolution encoder's image is reduced to
            before it is enlarged again; None: it is not.
        averaged_stages: numbers of the high-resolution encoder's stages, 1 is the finest, whose
            maps are replaced by their means over all positions.
        window_shift: windows that the high-resolution maps are moved to the right, around the edge.
        query: of mode "one_query", C numbers, the same for all images; None: for each image the
            mean of its tokens' queries.

    Raises:
        MGMError: a value is none of a field, or has no effect beside the others.
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
        # JSON has lists; tuples can be compared, and part of a key.
        object.__setattr__(self, "averaged_stages", tuple(sorted(set(self.averaged_stages))))
        if self.query is not None:
            object.__setattr__(self, "query", tuple(map(float, self.query)))
        for name in _OF_DETAIL if self.mode == NONE else ():
            self._demand(not getattr(self, name), name, 'its default beside mode "none"')
        self._demand(
            self.query is None or self.mode == ONE_QUERY, "query", 'null, or mode "one_query"'
        )
        self._demand(self.query != (), "query", "a number for each channel, or null")

    @classmethod
    def from_json(cls, values: object) -> Self:
        """The settings of an object with their names, as in `config.json`; None: the default.

        Raises:
            MGMError: it is no object, or has a field that is none.
        """
        if isinstance(values, cls):
            return values
        if values is None:
            return cls()
        if not isinstance(values, Mapping):
            advice = f' such as {{"mode": "{values}"}}' if values in MODES else ""
            raise MGMError(f"config: fusion is {shown(values)}; valid: an object{advice}, or null")
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                raise MGMError(f"config: fusion.{name} is no field; valid: {', '.join(names)}")
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from the default; of it, none."""
        default = asdict(DEFAULT_FUSION)
        return {name: value for name, value in asdict(self).items() if value != default[name]}

    @property
    def uses_detail(self) -> bool:
        """Whether the high-resolution encoder's output is used."""
        return self.mode != NONE

    def check_model(self, config: Any) -> None:
        """Raise an MGMError if a model cannot be run with these settings.

        Args:
            config: the `MGMConfig` of the model.
        """
        aux = config.vision_aux_config
        if aux is None:
            missing = "the default, this model has no high-resolution encoder"
            for name in ("mode", *_OF_DETAIL):
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
