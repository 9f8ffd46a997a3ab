"""FLOPs per sample and model FLOPs utilisation (MFU)."""

from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from mgm.model.configuration_mgm import MGMConfig
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.train.estimate.vision_cost import vision_cost

# Dense bfloat16 FLOP/s by torch's name of the device; from the vendors' data sheets.
PEAK_FLOPS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H800": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA A800": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA GeForce RTX 4090": 165e12,
}


@dataclass(frozen=True)
class SampleFlops:
    """FLOPs of one training sample.

    Attributes:
        vision: forward FLOPs of the encoders, mining and projector.
        language: forward FLOPs of the language model.
        backward: backward FLOPs of both, recomputed activations included.
    """

    vision: float
    language: float
    backward: float

    @property
    def total(self) -> float:
        """Forward and backward."""
        return self.vision + self.language + self.backward


def device_peak_flops() -> tuple[str, float] | None:
    """Name and peak FLOP/s of this machine's GPU; None without one whose peak is in the table."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        for prefix, peak in PEAK_FLOPS.items():
            if name.startswith(prefix):
                return name, peak
    return None


def meta_model(config: MGMConfig) -> MGMForConditionalGeneration:
    """A model on the meta device: shapes without memory."""
    with torch.device("meta"):
        return MGMForConditionalGeneration(config)


def flops_per_sample(
    model: MGMForConditionalGeneration, tokens: int, recompute: bool
) -> SampleFlops:
    """FLOPs of a sample with one image: the vision part counted, the rest computed by formula.

    Args:
        model: model on the meta device.
        tokens: sequence length.
        recompute: whether activation checkpointing recomputes the language model's layers.
    """
    config = model.config
    vision = vision_cost(config).flops
    weights, attention = forward_flops(model, config.text_config, tokens)
    trained = any(parameter.requires_grad for parameter in model.language_model.parameters())
    # Gradients of inputs cost as much as the forward pass, those of weights as much again.
    backward = weights * (1 + trained + recompute) + attention * (2 + recompute)
    return SampleFlops(vision, weights + attention, backward)


def forward_flops(
    model: MGMForConditionalGeneration, text: PretrainedConfig, tokens: float
) -> tuple[float, float]:
    """Forward FLOPs of the language model: of its weights, 2 per weight and token; of attention.

    Only active experts of a mixture of experts count; attention is causal.
    """
    experts = getattr(text, "num_local_experts", None) or 1
    active = (getattr(text, "num_experts_per_tok", None) or 1) / experts
    embedding = model.get_input_embeddings().weight
    parameters = 0.0
    for name, parameter in model.language_model.named_parameters():
        if parameter is not embedding and parameter.ndim > 1:
            parameters += parameter.numel() * (active if ".experts." in name else 1)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    attention = 2 * tokens**2 * text.num_hidden_layers * text.num_attention_heads * head_dim
    return 2 * parameters * tokens, attention


class FlopsCounter:
    """FLOPs of batches that a run trains on; recomputed activations do not count.

    Divided by time and by the device's peak they are the MFU of the PaLM paper.

    Args:
        model: model of the run, with `requires_grad` already set.
    """

    def __init__(self, model: MGMForConditionalGeneration) -> None:
        self.model = meta_model(model.config)
        self.trains_language_model = any(
            parameter.requires_grad and ".lora_" not in name
            for name, parameter in model.language_model.named_parameters()
        )
        self.per_image = flops_per_sample(self.model, 1, recompute=False).vision

    def training_flops(self, samples: float, images: float, tokens: float) -> float:
        """Forward and backward FLOPs of samples with these total numbers of images and tokens."""
        length = tokens / max(samples, 1)
        weights, attention = forward_flops(self.model, self.model.config.text_config, length)
        # Gradients of inputs cost as much as the forward pass, those of weights as much again.
        language = weights * (2 + self.trains_language_model) + attention * 3
        return images * self.per_image + samples * language
