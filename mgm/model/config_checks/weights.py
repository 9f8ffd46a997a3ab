"""Compares config fields with names and shapes of the weights, before a module is built."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mgm.errors import MGMError
from mgm.model.families import FAMILIES
from mgm.model.files.json_fields import shown
from mgm.model.files.lazy_tensor import LazyTensor

_LAYERS = re.compile(r"(?:model\.|transformer\.|decoder\.)*(?:layers|h|blocks)\.(?P<index>\d+)\.")
_EXPERTS = re.compile(r".*\.experts\.(?P<index>\d+)\.")
# `model_type`s whose layers are all in `model.layers`, with q_proj and k_proj.
_LLAMA_LIKE = frozenset(family.text_model_type for family in FAMILIES)


def check_text_sizes(
    config: Any,
    tensors: Mapping[str, LazyTensor],
    file: Path,
    section: str = "",
    prefix: str = "",
) -> None:
    """Check a language model's config against the shapes of its weights.

    Args:
        config: config of the language model.
        tensors: weights of the language model, by the names in the model that holds it.
        file: where the config comes from, for the message.
        section: before the fields' names in the message, where they are in an object of the file.
        prefix: prefix of the language model's weights among `tensors`.

    Raises:
        MGMError: a size differs; names file, field and value, and the size in the weights.
    """
    llama_like = config.model_type in _LLAMA_LIKE
    stripped = {
        name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)
    }
    sizes = _Sizes(config, file, section)
    embeddings = stripped.get("model.embed_tokens.weight")
    sizes.compare("vocab_size", embeddings, 0)
    sizes.compare("hidden_size", embeddings, 1)
    sizes.compare_count(
        "num_hidden_layers", _indices(stripped, _LAYERS), stripped, exactly=llama_like
    )
    sizes.compare_count(
        "num_local_experts", _indices(stripped, _EXPERTS), stripped, exactly=llama_like
    )
    if not llama_like:
        return
    layer = "model.layers.0."
    for name in ("block_sparse_moe.gate.weight", "mlp.gate.weight"):
        sizes.compare("num_local_experts", stripped.get(layer + name), 0)
    for name in ("mlp.gate_proj.weight", "mlp.fc1.weight"):
        sizes.compare("intermediate_size", stripped.get(layer + name), 0)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for field, name in (
        ("num_attention_heads", "self_attn.q_proj.weight"),
        ("num_key_value_heads", "self_attn.k_proj.weight"),
    ):
        sizes.compare(field, stripped.get(layer + name), 0, unit=head)


def check_vision_sizes(
    config: Any,
    tensors: Mapping[str, LazyTensor],
    file: Path,
    section: str = "",
    prefix: str = "",
    class_tokens: int = 1,
) -> None:
    """Check a ViT's config against its weights; `class_tokens` positions precede the patches'."""
    stripped = {
        name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)
    }
    sizes = _Sizes(config, file, section)
    patch = stripped.get("embeddings.patch_embedding.weight")
    sizes.compare("hidden_size", patch, 0)
    sizes.compare("patch_size", patch, -1)
    sizes.compare("intermediate_size", stripped.get("encoder.layers.0.mlp.fc1.weight"), 0)
    layers = re.compile(r"encoder\.layers\.(?P<index>\d+)\.")
    sizes.compare_count("num_hidden_layers", _indices(stripped, layers), stripped, exactly=True)
    positions = stripped.get("embeddings.position_embedding.weight")
    expected = (config.image_size // config.patch_size) ** 2 + class_tokens
    if positions is not None and positions.shape[:1] != (expected,):
        raise MGMError(
            f"{file}: {section}image_size is {config.image_size} and patch_size "
            f"{config.patch_size}, which makes {expected} positions, and {positions.name} in "
            f"{positions.file} has shape {positions.shape}; copy both from one model"
        )


def _indices(names: Iterable[str], pattern: re.Pattern[str]) -> set[str]:
    return {match["index"] for name in names if (match := pattern.match(name))}


class _Sizes:
    """Compares one config's fields with weight shapes; a difference is an MGMError."""

    def __init__(self, config: Any, file: Path, section: str) -> None:
        self._config, self._file, self._section = config, file, section

    def compare(self, field: str, tensor: LazyTensor | None, dimension: int, unit: int = 1) -> None:
        """Check that a field times `unit` is a dimension of a weight, if both exist."""
        value = getattr(self._config, field, None)
        if tensor is None or not isinstance(value, int) or not tensor.shape:
            return
        if dimension >= len(tensor.shape) or tensor.shape[dimension] != value * unit:
            self._refuse(field, value, f"{tensor.name} in {tensor.file} has shape {tensor.shape}")

    def compare_count(
        self, field: str, stored: set[str], tensors: Mapping[str, LazyTensor], exactly: bool
    ) -> None:
        """Check that a count is at most that in the weights, or equal to it with `exactly`."""
        value = getattr(self._config, field, None)
        if not stored or not isinstance(value, int):
            return
        if value > len(stored) or (exactly and value != len(stored)):
            folder = next(iter(tensors.values())).file.parent
            self._refuse(field, value, f"the weights in {folder} have {len(stored)}")

    def _refuse(self, field: str, value: int, contradiction: str) -> None:
        raise MGMError(
            f"{self._file}: {self._section}{field} is {shown(value)}, and {contradiction}; "
            "copy both from one model"
        )
