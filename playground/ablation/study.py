"""The study parsed from `study.toml`: arms, sizes and seeds, and units in run order."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mgm.errors import MGMError, prefix_errors

if TYPE_CHECKING:
    from mgm.model.vision.fusion.fusion_config import FusionConfig
    from playground.pretraining.encoder_sets import EncoderSet

STUDY_FILE = Path(__file__).with_name("study.toml")
_NOT_IN_RESULTS = ("paths", "title", "cpu_hours", "keep_model")
TRAIN, HELD_OUT = "train", "held_out"  # names of the two data sets

Flags = dict[str, Any]
Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Arm:
    """One fusion: a way to compute image tokens from the encoders' outputs.

    Attributes:
        name: such as "A1".
        title: short description for tables.
        encoders: name of an encoder set (`playground.pretraining.encoder_sets`).
        fusion: fields of `FusionConfig` that differ from the published model.
        config: other fields of `MGMConfig` that differ from the common configuration.
        controls: inference-time ablations of the trained model, as for `mgm.eval --ablate`.
    """

    name: str
    title: str
    encoders: str = "base"
    fusion: Flags = field(default_factory=dict)
    config: Flags = field(default_factory=dict)
    controls: Sequence[str] = ()

    @property
    def encoder_set(self) -> "EncoderSet":
        """Its pre-trained encoders.

        Raises:
            MGMError: the encoder set is unknown.
        """
        from playground.pretraining.encoder_sets import encoder_set  # imports torch

        with prefix_errors(f"arms.{self.name}"):
            return encoder_set(self.encoders)

    def fusion_config(self) -> "FusionConfig":
        """Its fusion settings.

        Raises:
            MGMError: a field is unknown or invalid.
        """
        from mgm.model.vision.fusion.fusion_config import FusionConfig  # imports torch

        with prefix_errors(f"arms.{self.name}"):
            return FusionConfig.from_json(self.fusion)


@dataclass(frozen=True)
class Size:
    """Training budget of a unit: a linear probe of frozen encoders, or two training stages.

    Attributes:
        name: such as "S".
        title: short description for tables.
        cpu_hours: estimated CPU time of a unit, for the forecast before any unit has finished.
        probe: arguments of `ProbeSettings`; empty: two training stages instead.
        stage_1: flags of `mgm.train` in addition to those of scripts/nano/train/stage_1.sh.
        stage_2: flags for stage 2.
        keep_model: whether to keep the trained model after the evaluation.
    """

    name: str
    title: str
    cpu_hours: float
    probe: Flags = field(default_factory=dict)
    stage_1: Flags = field(default_factory=dict)
    stage_2: Flags = field(default_factory=dict)
    keep_model: bool = False


@dataclass(frozen=True)
class Comparison:
    """A family of differences with simultaneous intervals: `reference` minus each rival.

    Attributes:
        title: heading of the table.
        size: name of the size whose units are compared.
        reference: name of an arm.
        rivals: names of arms.
    """

    title: str
    size: str
    reference: str
    rivals: Sequence[str]


@dataclass(frozen=True)
class Unit:
    """The smallest resumable run: one arm of one size with one seed."""

    arm: Arm
    size: Size
    seed: int

    @property
    def name(self) -> str:
        """Its name and relative folder, such as "S/A1/seed-1"."""
        return f"{self.size.name}/{self.arm.name}/seed-{self.seed}"


@dataclass(frozen=True)
class Study:
    """The settings of all experiments; with the code they determine the results.

    Attributes:
        inputs: folders of the language model and of the encoders (`language_model`, `encoders`).
        data: arguments of `playground.generate` for the data sets `train` and `held_out`.
        units: units in run order.
    """

    arms: Mapping[str, Arm]
    sizes: Mapping[str, Size]
    inputs: Mapping[str, str]
    data: Mapping[str, str]
    units: Sequence[Unit]
    comparisons: Sequence[Comparison]

    def unit_config(self, unit: Unit) -> dict[str, Any]:
        """Settings of a unit as JSON; results with other settings are not used."""
        return {
            "arm": _plain(asdict(unit.arm)),
            "size": _plain(asdict(unit.size)),
            "seed": unit.seed,
            "inputs": dict(self.inputs),
            "data": dict(self.data),
        }

    def seeds(self, size: str, arm: str) -> set[int]:
        """Seeds of an arm in a size."""
        return {u.seed for u in self.units if (u.size.name, u.arm.name) == (size, arm)}

    def matching(self, pattern: str) -> list[Unit]:
        """Select units by a shell pattern of their names, such as "S/A1/*".

        Raises:
            MGMError: no unit matches.
        """
        units = [unit for unit in self.units if fnmatchcase(unit.name, pattern)]
        if not units:
            names = f"{self.units[0].name}, ..., {self.units[-1].name}"
            raise MGMError(f"--only {pattern}: matches no unit; units are {names}")
        return units


def read_study(path: Path = STUDY_FILE) -> Study:
    """Parse a study file.

    Raises:
        MGMError: the file is missing or not TOML, or a field is unknown, missing or invalid.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MGMError(f"{path}: {error}; give a study file such as {STUDY_FILE}") from error
    with prefix_errors(path):
        for name in ("arms", "sizes", "inputs", "data", "plan"):
            if not content.get(name):
                raise MGMError(f"has no {name}; see {STUDY_FILE}")
        arms = {n: _parse(Arm, {"name": n} | v, f"arms.{n}") for n, v in content["arms"].items()}
        sizes = {
            n: _parse(Size, {"name": n} | v, f"sizes.{n}") for n, v in content["sizes"].items()
        }
        units = [unit for step in content["plan"] for unit in _units(step, arms, sizes)]
        comparisons = [
            _parse(Comparison, values, "comparisons") for values in content.get("comparisons", ())
        ]
        for one in comparisons:
            for name in (one.reference, *one.rivals):
                _get(arms, name, "comparisons: arm")
        unique = list(dict.fromkeys((u.size.name, u.arm.name, u.seed) for u in units))
        return Study(
            *(arms, sizes, content["inputs"], content["data"]),
            [Unit(arms[arm], sizes[size], seed) for size, arm, seed in unique],
            comparisons,
        )


def result_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a unit that affect its result: without titles, paths and forecasts."""
    kept = {name: value for name, value in settings.items() if name not in _NOT_IN_RESULTS}
    for part in ("arm", "size"):
        kept[part] = {n: v for n, v in settings[part].items() if n not in _NOT_IN_RESULTS}
    return kept


def _units(
    step: Mapping[str, Any], arms: Mapping[str, Arm], sizes: Mapping[str, Size]
) -> list[Unit]:
    """List the units of one step of the plan, seed by seed."""
    if step.keys() != {"size", "arms", "seeds"}:
        raise MGMError(f"plan: {dict(step)} has to have size, arms and seeds, and nothing else")
    size = _get(sizes, step["size"], "plan: size")
    chosen: list[str] = []
    for pattern in step["arms"]:
        names = [name for name in arms if fnmatchcase(name, pattern.removeprefix("!"))]
        if not names:
            _get(arms, pattern, "plan: arm")
        if pattern.startswith("!"):
            chosen = [name for name in chosen if name not in names]
        else:
            chosen += names
    return [Unit(arms[name], size, seed) for seed in step["seeds"] for name in chosen]


def _get(table: Mapping[str, Entry], name: str, label: str) -> Entry:
    if name not in table:
        raise MGMError(f"{label} {name!r} is unknown; it has {', '.join(table)}")
    return table[name]


def _parse(kind: type[Entry], values: Mapping[str, Any], label: str) -> Entry:
    """Build a dataclass instance from a table of the file."""
    names = [one.name for one in fields(kind)]  # ty: ignore[invalid-argument-type]
    unknown = [name for name in values if name not in names]
    if unknown:
        raise MGMError(f"{label}: {unknown[0]!r} is no field; valid: {', '.join(names)}")
    with prefix_errors(label):
        try:
            return kind(**values)
        except TypeError as error:
            raise MGMError(f"{error}; fields are {', '.join(names)}") from error


def _plain(values: Any) -> Any:
    """Convert tuples to lists, as JSON does."""
    if isinstance(values, dict):
        return {name: _plain(value) for name, value in values.items()}
    return [_plain(value) for value in values] if isinstance(values, list | tuple) else values
