"""Operations that samples take, and how many of those that a device can do are used."""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PretrainedConfig

from mgm.model.configuration_mgm import MGMConfig
from mgm.model.modeling_mgm import MGMForConditionalGeneration

# Dense bfloat16 operations a second, by what torch calls the device; vendors' data sheets.
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
    """Operations of one sample, in FLOP.

    Attributes:
        images: towers, mining and projector, forward.
        language: the language model, forward.
        backward: of both, and what is computed again for it.
    """

    images: float
    language: float
    backward: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.images + self.language + self.backward


def device_peak_flops() -> tuple[str, float] | None:
    """The device that is here and its operations a second; None: there is none that is known."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        for known, peak in PEAK_FLOPS.items():
            if name.startswith(known):
                return name, peak
    return None


def meta_model(config: MGMConfig) -> MGMForConditionalGeneration:
    """A model without weights."""
    with torch.device("meta"):
        return MGMForConditionalGeneration(config)


def flops_per_sample(model: MGMForConditionalGeneration, tokens: int, again: bool) -> SampleFlops:
    """Operations of a sample with one image; counted for what sees it, derived for the rest.

    Args:
        model: on the meta device.
        tokens: of the sample.
        again: whether the language model's layers are computed again in the backward pass.
    """
    config = model.config
    side = config.image_size_aux
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.get_image_features(
            torch.empty(1, config.crops, 3, config.image_size, config.image_size, device="meta"),
            torch.empty(1, 3, side, side, device="meta"),
        )
    images = counter.get_total_flops()
    text = config.text_config
    weights, attention = forward_flops(model, text, tokens)
    language = weights + attention
    trains = any(parameter.requires_grad for parameter in model.language_model.parameters())
    # Gradients of inputs take as much as the forward pass, those of weights as much again.
    backward = weights * (1 + trains + again) + attention * (2 + again)
    return SampleFlops(images, language, backward)


def forward_flops(
    model: MGMForConditionalGeneration, text: PretrainedConfig, tokens: float
) -> tuple[float, float]:
    """Of the language model: two for each weight that a token meets; and of causal attention."""
    experts = getattr(text, "num_local_experts", None) or 1
    share = (getattr(text, "num_experts_per_tok", None) or 1) / experts
    embedding = model.get_input_embeddings().weight
    met = 0.0
    for name, parameter in model.language_model.named_parameters():
        if parameter is not embedding and parameter.ndim > 1:
            met += parameter.numel() * (share if ".experts." in name else 1)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    attention = 2 * tokens**2 * text.num_hidden_layers * text.num_attention_heads * head_dim
    return 2 * met * tokens, attention


class FlopsCounter:
    """Operations of what a run does, without what is computed again for the backward pass.

    Those of a second by the device's peak are the MFU of the PaLM paper.

    Args:
        model: of the run; what is trained is known.
    """

    def __init__(self, model: MGMForConditionalGeneration) -> None:
        self.model_on_meta = meta_model(model.config)
        self.trains = any(
            parameter.requires_grad and ".lora_" not in name
            for name, parameter in model.language_model.named_parameters()
        )
        self.of_image = flops_per_sample(self.model_on_meta, 1, again=False).images

    def operations(self, samples: float, images: float, tokens: float) -> float:
        """FLOP of samples with so many images and tokens, forward and backward."""
        length = tokens / max(samples, 1)
        text = self.model_on_meta.config.text_config
        weights, attention = forward_flops(self.model_on_meta, text, length)
        # Gradients of inputs take as much as the forward pass, those of weights as much again.
        language = weights * (2 + self.trains) + attention * 3
        return images * self.of_image + samples * language
