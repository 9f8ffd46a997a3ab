"""What a run will take, before anything is loaded: parameters, memory, operations, hours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from mgm.data.sources.hf_table import TableFile, is_table
from mgm.data.sources.json.json_index import SampleIndex
from mgm.data.sources.mixture_config import Source, read_mixture
from mgm.data.sources.shards import TARS
from mgm.errors import MGMError
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.families import TEXT_TYPE_OF_PUBLISHED
from mgm.model.files.json_file import read_json
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.vision.convnext import read_architecture
from mgm.model.vision.vit import read_vision_config
from mgm.train.args.validation import Arguments, parse_flags
from mgm.train.distributed.batch_plan import BatchPlan
from mgm.train.estimate.flops import PEAK_FLOPS, device_peak_flops, flops_per_sample, meta_model
from mgm.train.optim.freezing import count_parameters, set_trainable

GB, TERA = 1e9, 1e12
PUBLISHED_DEVICE = "NVIDIA A800"  # of the published models
UTILISATION = 0.4  # of the peak; what good training loops of this kind reach
ELSEWHERE = ("deepspeed", "bf16", "fp16", "tf32")  # what the devices of the run can, not this one
TEXT_TOKENS = 200  # of a sample, where there is no data to look at
LOGITS = (
    2 * 256 * 2**20
)  # bytes; pieces of logits and their gradients, see fused_linear_cross_entropy.py


def estimate_run(
    flags: Mapping[str, Sequence[str]], batches: BatchPlan, config: Path | None
) -> str:
    """A table of what the run will take.

    Args:
        flags: of the training, with their values.
        batches: of its steps.
        config: the language model's config.json, for when its folder is not there.
    """
    here = {name: values for name, values in flags.items() if name not in ELSEWHERE}
    arguments = parse_flags([word for name, of in here.items() for word in (f"--{name}", *of)])
    model_flags, data_flags, training = arguments
    try:
        model = model_on_meta(arguments, config)
    except MGMError as error:
        return f"forecast: none, for {error}"
    set_trainable(model, model_flags)
    total, trained = count_parameters(model)
    tokens = model.config.image_tokens_per_image + TEXT_TOKENS
    again = bool(training.gradient_checkpointing)
    work = flops_per_sample(model, tokens, again)
    zero = _zero(flags.get("deepspeed"), training.use_fsdp)
    held = memory(model, trained, batches, tokens, zero, again)
    name, peak = device_peak_flops() or (PUBLISHED_DEVICE, PEAK_FLOPS[PUBLISHED_DEVICE])
    rate = batches.devices * peak * UTILISATION / work.total
    rows = [
        ("parameters", f"{total / GB:.2f} G, {trained / GB:.3f} G trained ({trained / total:.1%})"),
        (
            "sample",
            f"{tokens} positions: {model.config.image_tokens_per_image} of an image and about "
            f"{TEXT_TOKENS} of text; {work.total / TERA:.1f} TFLOP "
            f"({work.images / TERA:.1f} encoders, {work.language / TERA:.1f} language model, "
            f"{work.backward / TERA:.1f} backward)",
        ),
        ("memory", f"about {held / GB:.0f} GB a device, {zero.described}"),
        (
            "speed",
            f"about {rate:.1f} samples/s, {rate * tokens:,.0f} tokens/s on {batches.devices} x "
            f"{name} ({peak / TERA:.0f} TFLOP/s at {UTILISATION:.0%})",
        ),
    ]
    count = _samples(data_flags.data_path)
    if training.max_steps > 0:
        hours = training.max_steps * batches.samples / rate / 3600
        rows.append(("time", f"{hours:.1f} h, {training.max_steps:,} steps"))
    elif count is None:
        hours = 1e6 / rate / 3600
        rows.append(
            ("time", f"{hours:.1f} h a million samples; {data_flags.data_path} is not here")
        )
    else:
        seen = count * training.num_train_epochs
        steps = ceil(seen / batches.samples)
        hours = steps * batches.samples / rate / 3600
        rows.append(("time", f"{hours:.1f} h, {steps:,} steps for {count:,} samples"))
    width = max(len(title) for title, _ in rows)
    return "\n".join(["forecast:", *(f"  {title:<{width}}  {text}" for title, text in rows)])


def model_on_meta(arguments: Arguments, config: Path | None) -> MGMForConditionalGeneration:
    """The model that the flags describe, without weights.

    Raises:
        MGMError: the language model's folder is not there, and no config stands for it.
    """
    model_flags, data_flags, _ = arguments
    folder = Path(model_flags.model_name_or_path or "")
    if (folder / "config.json").is_file():
        facts = read_json(folder / "config.json")
    elif config is not None:
        facts = read_json(config)
    else:
        raise MGMError(f"{folder} is not here")
    if facts.get("model_type") in TEXT_TYPE_OF_PUBLISHED:
        whole = MGMConfig.from_pretrained(folder)
    else:
        whole = MGMConfig(
            text_config=facts,
            vision_config=_vision(model_flags.vision_tower),
            vision_aux_config=_vision_aux(model_flags.vision_tower_aux),
            projector_type=model_flags.mm_projector_type or "linear",
        )
    for name in ("image_size_aux", "image_grid", "image_global"):
        if getattr(data_flags, name) is not None:
            setattr(whole, name, getattr(data_flags, name))
    whole.check()
    return meta_model(whole)


@dataclass(frozen=True)
class Zero:
    """What DeepSpeed divides among the devices.

    Attributes:
        stage: 0 nothing, 1 optimizer states, 2 gradients too, 3 weights too.
        optimizer_on_cpu: whether optimizer states lie in the machine's memory.
        weights_on_cpu: whether weights do.
        fsdp: whether it is FSDP2 that divides, as stage 3 does.
    """

    stage: int
    optimizer_on_cpu: bool
    weights_on_cpu: bool
    fsdp: bool = False

    @property
    def described(self) -> str:
        """In words."""
        if self.fsdp:
            return "FSDP2"
        if not self.stage:
            return "without ZeRO"
        away = ", optimizer in the machine's memory" if self.optimizer_on_cpu else ""
        return f"ZeRO-{self.stage}{away}"


def memory(
    model: MGMForConditionalGeneration,
    trained: int,
    batches: BatchPlan,
    tokens: int,
    zero: Zero,
    again: bool,
) -> float:
    """Bytes that one device holds at once, about.

    Args:
        model: whose geometry decides.
        trained: parameters with gradients.
        batches: of a step.
        tokens: of a sample.
        zero: what is divided among devices.
        again: whether layers keep their inputs alone.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    # Under DeepSpeed weights and gradients in bfloat16, a float32 copy and Adam's two moments;
    # without it weights and gradients are float32 themselves.
    weight, gradient, states = (2, 2, 12) if zero.stage and not zero.fsdp else (4, 4, 8)
    share = [1 if zero.stage < stage else batches.devices for stage in (1, 2, 3)]
    held = 0 if zero.optimizer_on_cpu else states * trained / share[0]
    held += gradient * trained / share[1]
    held += 0 if zero.weights_on_cpu else weight * total / share[2]
    text = model.config.text_config
    rows = batches.per_device * tokens
    layer = 2 * rows * (16 * text.hidden_size + 4 * text.intermediate_size)
    inputs = 2 * rows * text.hidden_size * text.num_hidden_layers
    layers = inputs + layer if again else layer * text.num_hidden_layers
    maps = 2 * 2 * batches.per_device * sum(_map_numbers(model.config))
    return held + layers + maps + LOGITS


def _map_numbers(config: MGMConfig) -> list[int]:
    """Numbers of each ConvNeXt stage's map, for one image."""
    if config.vision_aux_config is None:
        return [0]
    side = config.image_size_aux // 4
    return [
        width * (side // 2**stage) ** 2 for stage, width in enumerate(config.vision_aux_config.dims)
    ]


def _zero(deepspeed: Sequence[str] | None, use_fsdp: bool) -> Zero:
    if not deepspeed:
        return Zero(3 if use_fsdp else 0, False, False, fsdp=use_fsdp)
    settings = read_json(Path(deepspeed[0]))
    chosen = settings.get("zero_optimization", {})
    places = (chosen.get(name, {}).get("device") for name in ("offload_optimizer", "offload_param"))
    optimizer, weights = (place in ("cpu", "nvme") for place in places)
    return Zero(chosen.get("stage", 0), optimizer, weights and chosen.get("stage") == 3)


def _vision(folder: str | None) -> PretrainedConfig | None:
    """Of a tower's folder; None, CLIP-L/14 at 336, where it is not there."""
    there = folder is not None and (Path(folder) / "config.json").is_file()
    return read_vision_config(str(folder)) if there else None


def _vision_aux(folder: str | None) -> dict[str, Any] | None:
    """Of a tower's folder; an empty one, ConvNeXt-L, where it is not there."""
    if folder is None or folder.lower() in ("none", ""):
        return None
    return read_architecture(folder) if Path(folder).is_dir() else {}


def _samples(file: str | None) -> int | None:
    """How many samples an epoch has, if the data file or all of a mixture are on the disk."""
    if file is None:
        return None
    sources = read_mixture(Path(file)) or [Source(file)]
    if not all(Path(of.path).exists() and not of.path.endswith(TARS) for of in sources):
        return None
    return round(sum(of.weight * _samples_of(of) for of in sources))


def _samples_of(source: Source) -> int:
    if is_table(source.path):
        return len(TableFile(source.path, source.config, source.split))
    return len(SampleIndex.of(Path(source.path)).places)
