"""`FusionConfig`: how both towers' outputs are combined into image tokens."""

import json
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
from mgm.model.vision.fusion.modules import (
    ABLATIONS_OF_MINING,
    FUSION_MODES,
    MINING,
    NONE,
    ONE_QUERY,
    WITH_TOKENS,
)

_RULES: Mapping[str, Rule] = {
    "mode": one_of(*FUSION_MODES),
    "stages": optional(list_of(integer(1))),
    "token_pooling": integer(1),
    "high_resolution_only": BOOLEAN,
    "grey_low_resolution": BOOLEAN,
    "blur_high_resolution": optional(integer(1)),
    "averaged_stages": list_of(integer(1)),
    "window_shift": integer(0),
    "query": optional(list_of(number())),
}
# Fields that need high-resolution features: no effect, or no tokens left, in mode "none".
_HIGH_RESOLUTION_FIELDS = (
    "stages",
    "high_resolution_only",
    "blur_high_resolution",
    "averaged_stages",
    "window_shift",
)
# Fields that decide the shapes of a model's weights or its number of image tokens.
_FIXED_FIELDS = ("stages", "token_pooling")


@dataclass(frozen=True)
class FusionConfig:
    """How both towers' outputs are combined into image tokens; the default is the published model.

    In `config.json` it says what a model is built and trained with. Set on a loaded model it is an
    ablation at inference, with the same weights; docs/fusion.md has the formula of each mode.

    Attributes:
        mode: "mining": patch info mining, each token attends to its window of the high-resolution
            maps; "one_query": attention with one query for all tokens; "pool": mean of the window;
            "concat": maps and tokens are concatenated along channels; "gate": MG-LLaVA's
            convolution and gate; "none": low-resolution tokens alone, without the high-resolution
            tower.
        stages: numbers of the high-resolution tower's stages that are used, 1 the finest; None:
            all. The tower runs all of them in any case.
        token_pooling: patches of the low-resolution tower per side of an image token, which is
            their mean; its window is as many times as wide.
        high_resolution_only: whether the fused features replace the low-resolution tokens instead
            of being added to them. Mode "mining" still takes its queries from the tokens.
        grey_low_resolution: whether the low-resolution tower gets an image of the mean colour.
        blur_high_resolution: pixels per side to which the high-resolution tower's image is reduced
            and enlarged again; None: no blur.
        averaged_stages: numbers of the high-resolution tower's stages whose maps are replaced by
            their means over all positions.
        window_shift: windows by which the high-resolution maps are rolled to the right.
        query: for mode "one_query" as an ablation of a model with mining, C numbers used for all
            images; None: each image's mean query.

    Raises:
        MGMError: a value is not valid, or has no effect beside the others.
    """

    mode: str = MINING
    stages: tuple[int, ...] | None = None
    token_pooling: int = 1
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
        if self.stages is not None:
            object.__setattr__(self, "stages", tuple(sorted(set(self.stages))))
        if self.query is not None:
            object.__setattr__(self, "query", tuple(map(float, self.query)))
        for name in _HIGH_RESOLUTION_FIELDS if self.mode == NONE else ():
            self._demand(not getattr(self, name), name, 'its default beside mode "none"')
        self._demand(self.stages != (), "stages", "one stage or more, or null for all")
        self._demand(
            not (self.high_resolution_only and self.mode in WITH_TOKENS),
            "high_resolution_only",
            f'false beside mode "{self.mode}", whose output contains the tokens',
        )
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

    @classmethod
    def from_flag(cls, text: str) -> Self:
        """Parse the value of `--fusion`: a mode, or the object of `config.json`.

        Raises:
            MGMError: it is neither, or a value is not valid.
        """
        try:
            if not text.lstrip().startswith("{"):
                return cls(mode=text)
            return cls.from_json(json.loads(text))
        except (ValueError, MGMError) as error:
            reason = str(error) if isinstance(error, MGMError) else f"no valid JSON ({error})"
            raise MGMError(
                f"--fusion {shown(text)}: {reason}; give a mode, or an object such as "
                '\'{"mode": "pool", "token_pooling": 2}\''
            ) from error

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from the default."""
        default = asdict(DEFAULT_FUSION)
        return {name: value for name, value in asdict(self).items() if value != default[name]}

    @property
    def uses_high_resolution(self) -> bool:
        """Whether the high-resolution tower's output is used."""
        return self.mode != NONE

    @property
    def uses_low_resolution(self) -> bool:
        """Whether the low-resolution tower's output is used, as queries or in the output."""
        return not self.high_resolution_only or self.mode == MINING

    def without_high_resolution(self) -> "FusionConfig":
        """The same low-resolution tokens, alone."""
        return FusionConfig(
            mode=NONE,
            token_pooling=self.token_pooling,
            grey_low_resolution=self.grey_low_resolution,
        )

    def used_stages(self, count: int) -> tuple[int, ...]:
        """Numbers of the used stages of a tower with `count`, finest first."""
        return self.stages or tuple(range(1, count + 1))

    def check_model(self, config: Any) -> None:
        """Raise an MGMError if a model cannot be built with these settings.

        Args:
            config: the `MGMConfig` of the model.
        """
        patches = config.image_size // int(config.vision_config.patch_size)
        self._demand(
            patches % self.token_pooling == 0,
            "token_pooling",
            f"a divisor of {patches}, the low-resolution encoder's patches per side",
        )
        self._demand(
            self.query is None,
            "query",
            'null: a model of mode "one_query" learns its query; a given one is an ablation of '
            "mining at inference",
        )
        if config.vision_aux_config is not None:
            self._demand(self.mode != NONE, "mode", "another, or vision_aux_config null")
        elif self.mode != NONE:
            self._check_defaults()
        self._check_sizes(config)

    def check_inference(self, config: Any) -> None:
        """Raise an MGMError if a trained model cannot be run with these settings.

        Args:
            config: the `MGMConfig` that the model was built with.
        """
        built: FusionConfig = config.fusion
        if config.vision_aux_config is None:
            self._check_defaults(built)
        modes = (*(ABLATIONS_OF_MINING if built.mode == MINING else ()), built.mode, NONE)
        self._demand(
            self.mode in modes,
            "mode",
            f"{', '.join(dict.fromkeys(modes))}, this model has the weights of {built.mode}",
        )
        for name in _FIXED_FIELDS if self.uses_high_resolution else _FIXED_FIELDS[1:]:
            value = getattr(built, name)
            self._demand(getattr(self, name) == value, name, f"{value!r}, as the model was built")
        width = config.vision_config.hidden_size
        self._demand(
            self.query is None or (built.mode == MINING and len(self.query) == width),
            "query",
            f"{width} numbers, or null" if built.mode == MINING else "null: the model has a query",
        )
        self._check_sizes(config)

    def _check_defaults(self, expected: "FusionConfig | None" = None) -> None:
        """Check that a model without a high-resolution encoder gets no setting for one."""
        for name in ("mode", *_HIGH_RESOLUTION_FIELDS):
            self._demand(
                getattr(self, name) == getattr(expected or DEFAULT_FUSION, name),
                name,
                "the default, this model has no high-resolution encoder",
            )

    def _check_sizes(self, config: Any) -> None:
        """Check numbers that depend on the model's encoders and image sizes."""
        if config.vision_aux_config is None:
            return
        count = len(config.vision_aux_config.dims)
        numbers = f"numbers from 1 to {count}, the encoder has so many stages"
        used = self.used_stages(count)
        self._demand(max(used) <= count, "stages", numbers)
        valid = numbers if self.stages is None else f"stages that are used, {list(used)}"
        self._demand(set(self.averaged_stages) <= {*used}, "averaged_stages", valid)
        self._demand(
            self.blur_high_resolution is None or self.blur_high_resolution < config.image_size_aux,
            "blur_high_resolution",
            f"fewer pixels than image_size_aux, {config.image_size_aux}",
        )
        side = config.tokens_per_side
        self._demand(
            self.window_shift < side, "window_shift", f"below {side}, the windows of a crop's side"
        )

    def _demand(self, holds: bool, name: str, valid: str) -> None:
        if not holds:
            raise MGMError(f"config: fusion.{name} is {shown(getattr(self, name))}; valid: {valid}")


DEFAULT_FUSION = FusionConfig()
