"""Estimates parameters, memory per device, FLOPs and hours of a run before anything is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from mgm.data.sources.hf_table import TableFile, is_table
from mgm.data.sources.json.json_index import SampleIndex
from mgm.data.sources.mixture_config import MixtureSource, read_mixture
from mgm.data.sources.shards import TARS
from mgm.errors import MGMError
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.families import is_mini_gemini
from mgm.model.files.json_file import read_json
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.vision.convnext import read_architecture
from mgm.model.vision.fusion.fusion_config import FusionConfig
from mgm.model.vision.vit import read_vision_config
from mgm.train.args.validation import Arguments, parse_flags
from mgm.train.distributed.batch_plan import BatchPlan
from mgm.train.estimate.flops import PEAK_FLOPS, device_peak_flops, flops_per_sample, meta_model
from mgm.train.optim.freezing import count_parameters, set_trainable

GB, TERA = 1e9, 1e12
DEFAULT_DEVICE = "NVIDIA A800"  # GPU of the published training
EXPECTED_MFU = 0.4  # typical of well-tuned training of such models
# Flags that are checked against the device, which may be another than the run's.
DEVICE_FLAGS = ("deepspeed", "bf16", "fp16", "tf32")
TEXT_TOKENS = 200  # assumed text tokens per sample
# Chunks of logits and of their gradients; see fused_linear_cross_entropy.py.
LOGITS_CHUNK_BYTES = 2 * 256 * 2**20


def estimate_run(flags: Mapping[str, Sequence[str]], plan: BatchPlan, config: Path | None) -> str:
    """The estimate as a table of text.

    Args:
        flags: training flags with their values.
        plan: batch sizes and number of devices.
        config: config.json of the language model, used if its folder is missing.
    """
    argv = [
        word
        for name, values in flags.items()
        if name not in DEVICE_FLAGS
        for word in (f"--{name}", *values)
    ]
    arguments = parse_flags(argv)
    model_flags, data_flags, training = arguments
    try:
        model = build_meta_model(arguments, config)
    except MGMError as error:
        return f"forecast: not possible, {error}"
    set_trainable(model, model_flags)
    total, trained = count_parameters(model)
    tokens = model.config.image_tokens_per_image + TEXT_TOKENS
    recompute = bool(training.gradient_checkpointing)
    flops = flops_per_sample(model, tokens, recompute)
    zero = _read_zero_config(flags.get("deepspeed"), training.use_fsdp)
    memory = memory_per_device(model, trained, plan, tokens, zero, recompute)
    name, peak = device_peak_flops() or (DEFAULT_DEVICE, PEAK_FLOPS[DEFAULT_DEVICE])
    rate = plan.devices * peak * EXPECTED_MFU / flops.total
    rows = [
        ("parameters", f"{total / GB:.2f} G, {trained / GB:.3f} G trained ({trained / total:.1%})"),
        (
            "sample",
            f"{tokens} positions: {model.config.image_tokens_per_image} of an image and about "
            f"{TEXT_TOKENS} of text; {flops.total / TERA:.1f} TFLOP "
            f"({flops.vision / TERA:.1f} encoders, {flops.language / TERA:.1f} language model, "
            f"{flops.backward / TERA:.1f} backward)",
        ),
        ("memory", f"about {memory / GB:.0f} GB per device, {zero.description}"),
        (
            "speed",
            f"about {rate:.1f} samples/s, {rate * tokens:,.0f} tokens/s on {plan.devices} x "
            f"{name} ({peak / TERA:.0f} TFLOP/s at {EXPECTED_MFU:.0%})",
        ),
    ]
    count = _count_samples(data_flags.data_path)
    if training.max_steps > 0:
        hours = training.max_steps * plan.global_batch_size / rate / 3600
        rows.append(("time", f"{hours:.1f} h, {training.max_steps:,} steps"))
    elif count is None:
        hours = 1e6 / rate / 3600
        rows.append(
            ("time", f"{hours:.1f} h per million samples; {data_flags.data_path} is missing")
        )
    else:
        steps = ceil(count * training.num_train_epochs / plan.global_batch_size)
        hours = steps * plan.global_batch_size / rate / 3600
        rows.append(("time", f"{hours:.1f} h, {steps:,} steps for {count:,} samples"))
    width = max(len(title) for title, _ in rows)
    return "\n".join(["forecast:", *(f"  {title:<{width}}  {text}" for title, text in rows)])


def build_meta_model(arguments: Arguments, config: Path | None) -> MGMForConditionalGeneration:
    """The model that the flags describe, on the meta device.

    Raises:
        MGMError: the language model's folder is missing, and no config is given for it.
    """
    model_flags, data_flags, _ = arguments
    folder = Path(model_flags.model_name_or_path or "")
    if (folder / "config.json").is_file():
        fields = read_json(folder / "config.json")
    elif config is not None:
        fields = read_json(config)
    else:
        raise MGMError(f"{folder} is missing")
    flag = model_flags.fusion
    fusion = None if flag is None else FusionConfig.from_flag(flag)
    if is_mini_gemini(fields):
        model_config = MGMConfig.from_pretrained(folder)
        model_config.fusion = fusion or model_config.fusion
    else:
        model_config = MGMConfig(
            text_config=fields,
            vision_config=_vision_config(model_flags.vision_tower),
            vision_aux_config=_vision_aux_config(model_flags.vision_tower_aux),
            projector_type=model_flags.mm_projector_type or "linear",
            fusion=fusion,
        )
    for name in ("image_size_aux", "image_grid", "image_global"):
        if getattr(data_flags, name) is not None:
            setattr(model_config, name, getattr(data_flags, name))
    model_config.check()
    return meta_model(model_config)


@dataclass(frozen=True)
class ZeroConfig:
    """Sharding and offloading of ZeRO or FSDP2.

    Attributes:
        stage: 0 nothing, 1 optimizer states, 2 gradients too, 3 weights too.
        optimizer_on_cpu: whether optimizer states are offloaded.
        weights_on_cpu: whether weights are.
        fsdp: whether it is FSDP2, which shards as stage 3 does.
    """

    stage: int
    optimizer_on_cpu: bool
    weights_on_cpu: bool
    fsdp: bool = False

    @property
    def description(self) -> str:
        """Its name in the table."""
        if self.fsdp:
            return "FSDP2"
        if not self.stage:
            return "without ZeRO"
        offload = ", optimizer offloaded to the CPU" if self.optimizer_on_cpu else ""
        return f"ZeRO-{self.stage}{offload}"


def memory_per_device(
    model: MGMForConditionalGeneration,
    trained: int,
    plan: BatchPlan,
    tokens: int,
    zero: ZeroConfig,
    recompute: bool,
) -> float:
    """Estimated peak bytes of one device.

    Args:
        model: model on the meta device.
        trained: number of trained parameters.
        plan: batch sizes and number of devices.
        tokens: sequence length.
        zero: sharding and offloading.
        recompute: whether activation checkpointing keeps only the inputs of layers.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    # Under DeepSpeed weights and gradients in bfloat16, a float32 copy and Adam's two moments;
    # without it weights and gradients are float32 themselves.
    weight, gradient, states = (2, 2, 12) if zero.stage and not zero.fsdp else (4, 4, 8)
    shards = [1 if zero.stage < stage else plan.devices for stage in (1, 2, 3)]
    persistent = 0 if zero.optimizer_on_cpu else states * trained / shards[0]
    persistent += gradient * trained / shards[1]
    persistent += 0 if zero.weights_on_cpu else weight * total / shards[2]
    text = model.config.text_config
    positions = plan.per_device * tokens
    layer = 2 * positions * (16 * text.hidden_size + 4 * text.intermediate_size)
    inputs = 2 * positions * text.hidden_size * text.num_hidden_layers
    layers = inputs + layer if recompute else layer * text.num_hidden_layers
    maps = 2 * 2 * plan.per_device * sum(_feature_map_sizes(model.config))
    return persistent + layers + maps + LOGITS_CHUNK_BYTES


def _feature_map_sizes(config: MGMConfig) -> list[int]:
    """Elements of each ConvNeXt stage's feature map, for one image."""
    if config.vision_aux_config is None:
        return [0]
    side = config.image_size_aux // 4
    return [
        width * (side // 2**stage) ** 2 for stage, width in enumerate(config.vision_aux_config.dims)
    ]


def _read_zero_config(deepspeed: Sequence[str] | None, use_fsdp: bool) -> ZeroConfig:
    if not deepspeed:
        return ZeroConfig(3 if use_fsdp else 0, False, False, fsdp=use_fsdp)
    settings = read_json(Path(deepspeed[0]))
    chosen = settings.get("zero_optimization", {})
    devices = (
        chosen.get(name, {}).get("device") for name in ("offload_optimizer", "offload_param")
    )
    optimizer, weights = (device in ("cpu", "nvme") for device in devices)
    return ZeroConfig(chosen.get("stage", 0), optimizer, weights and chosen.get("stage") == 3)


def _vision_config(folder: str | None) -> PretrainedConfig | None:
    """The config of a ViT's folder; None (CLIP-L/14 at 336) where that is missing."""
    if folder is None or not (Path(folder) / "config.json").is_file():
        return None
    return read_vision_config(folder)


def _vision_aux_config(folder: str | None) -> dict[str, Any] | None:
    """The config of a ConvNeXt's folder; an empty one (ConvNeXt-L) where that is missing."""
    if folder is None or folder.lower() in ("none", ""):
        return None
    return read_architecture(folder) if Path(folder).is_dir() else {}


def _count_samples(file: str | None) -> int | None:
    """Samples per epoch, if the data file, or all files of a mixture, are on the disk."""
    if file is None:
        return None
    sources = read_mixture(Path(file)) or [MixtureSource(file)]
    for source in sources:
        if source.path.endswith(TARS) or not Path(source.path).exists():
            return None
    return round(sum(source.weight * _count_source(source) for source in sources))


def _count_source(source: MixtureSource) -> int:
    if is_table(source.path):
        return len(TableFile(source.path, source.config, source.split))
    return len(SampleIndex.of(Path(source.path)).indices)
