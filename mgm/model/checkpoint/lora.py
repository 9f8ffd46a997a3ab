"""LoRA checkpoints: reads an adapter in LLaVA's layout, merges it at load or attaches it by peft.

The published training, like LLaVA's, writes peft's `adapter_config.json` and `adapter_model.*` for
the language model, and `non_lora_trainables.bin` with the other trained weights.
"""

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from mgm.errors import MGMError
from mgm.model.checkpoint.base_digest import BASE_DIGEST
from mgm.model.checkpoint.base_models import stored_metadata
from mgm.model.checkpoint.saved_files import ADAPTER_CONFIG, ADAPTER_FILES, NON_LORA_FILE
from mgm.model.files.json_fields import (
    BOOLEAN,
    TEXT,
    Rule,
    check_fields,
    either,
    integer,
    list_of,
    number,
    one_of,
    optional,
    shown,
)
from mgm.model.files.json_file import is_present, read_json
from mgm.model.files.lazy_tensor import LazyTensor, lazy_tensors
from mgm.model.published_layout.weight_names import to_native_key

logger = logging.getLogger(__name__)

PREFIX = "base_model.model."  # prefix of weight names in a model wrapped by peft

_PAIR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.default)?\.weight")
_MAGNITUDE = re.compile(r"(?P<module>.+)\.lora_magnitude_vector(\.default)?(\.weight)?")
_LAYER = re.compile(r"\.(?P<index>\d{1,9})\.")
# Other variants of LoRA compute other functions; the published training used none of them.
_RULES: dict[str, Rule] = {
    "peft_type": one_of("LORA"),
    "r": integer(1, 2**16),
    "lora_alpha": number(0, 1e9, above=True),
    "lora_dropout": number(0, 1),
    "bias": one_of("none", "all", "lora_only"),
    "use_rslora": BOOLEAN,
    "use_dora": BOOLEAN,
    "target_modules": optional(either(TEXT, list_of(TEXT))),
    "exclude_modules": optional(either(TEXT, list_of(TEXT))),
    "layers_to_transform": optional(either(integer(0), list_of(integer(0)))),
    # Others (pissa, olora, corda, loftq) change the base weights too, which are not in the folder.
    "init_lora_weights": optional(either(BOOLEAN, one_of("gaussian", "orthogonal", "eva"))),
    "base_model_name_or_path": optional(TEXT),
}
_UNSUPPORTED = (
    *("fan_in_fan_out", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias"),
    *("layer_replication", "target_parameters", "trainable_token_indices"),
    *("alora_invocation_tokens", "use_qalora", "use_bdlora"),
    *("arrow_config", "kasa_config", "monteclora_config", "velora_config"),
)


@dataclass(frozen=True)
class Adapter:
    """LoRA adapter: some of a model's weights become W + scale * B A.

    Attributes:
        config: the file adapter_config.json.
        pairs: A (rank, inputs) and B (outputs, rank) by the native name of the weight.
        scale: lora_alpha / r.
        magnitudes: DoRA's magnitudes (https://arxiv.org/abs/2402.09353, equation 5): the norm
            (outputs) that each row of the changed weight is scaled to, by native name.
        biases: trained biases, which replace the model's, by native name.
    """

    config: dict[str, Any]
    pairs: dict[str, tuple[LazyTensor, LazyTensor]]
    scale: float
    magnitudes: dict[str, LazyTensor]
    biases: dict[str, LazyTensor]


def read_adapter(folder: Path) -> Adapter:
    """Read the adapter of a folder in peft's layout.

    Raises:
        MGMError: files are missing or damaged, half of a pair is missing, or it is a variant of
            LoRA that cannot be merged here.
    """
    path = folder / ADAPTER_CONFIG
    config = read_json(path)
    for name in _UNSUPPORTED:
        if config.get(name):
            raise MGMError(
                f"{path}: {name} is {shown(config[name])}, which is not supported; merge it "
                "with peft"
            )
    check_fields({"r": None, "lora_alpha": None} | config, _RULES, path)
    rank, alpha = config["r"], config["lora_alpha"]
    file = next((folder / name for name in ADAPTER_FILES if is_present(folder / name)), None)
    if file is None:
        raise MGMError(f"{folder}: has no {' or '.join(ADAPTER_FILES)}; copy it again")
    halves: dict[str, dict[str, LazyTensor]] = {}
    magnitudes: dict[str, LazyTensor] = {}
    biases: dict[str, LazyTensor] = {}
    for name, tensor in lazy_tensors(file).items():
        if config.get("use_dora") and (match := _MAGNITUDE.fullmatch(name)):
            magnitudes[native_name(match["module"] + ".weight")] = tensor
            continue
        if config.get("bias", "none") != "none" and name.endswith(".bias"):
            biases[native_name(name.replace(".base_layer.", "."))] = tensor
            continue
        match = _PAIR.fullmatch(name)
        if match is None:
            raise MGMError(f"{file}: {name} is neither lora_A nor lora_B; merge it with peft")
        _check_target(path, config, match["module"], tensor)
        weight = native_name(match["module"] + ".weight")
        halves.setdefault(weight, {})[match["side"]] = tensor
    for weight, sides in halves.items():
        if len(sides) != 2:
            (half,) = sides.values()
            raise MGMError(f"{file}: {half.name} has no counterpart ({weight}); copy it again")
    if config.get("use_dora") and magnitudes.keys() != halves.keys():
        weight = min(magnitudes.keys() ^ halves.keys())
        raise MGMError(f"{file}: {weight} has no lora_magnitude_vector, or no LoRA; copy it again")
    pairs = {weight: (sides["A"], sides["B"]) for weight, sides in halves.items()}
    for a, b in pairs.values():
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != rank or b.shape[1] != rank:
            raise MGMError(
                f"{path}: r is {rank}, and {a.name} and {b.name} in {file} have shapes "
                f"{a.shape} and {b.shape}; copy both files from one adapter"
            )
    for tensor in (*magnitudes.values(), *biases.values(), *(t for p in pairs.values() for t in p)):
        if not tensor.dtype.is_floating_point:
            raise MGMError(
                f"{file}: {tensor.name} has dtype {tensor.dtype}; expected floating point"
            )
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    return Adapter(config, pairs, scale, magnitudes, biases)


def _check_target(path: Path, config: dict[str, Any], module: str, tensor: LazyTensor) -> None:
    """Refuse weights of a module that the config leaves out; peft would ignore them.

    Regular expressions are not evaluated: an untrusted one might never end.
    """
    name = module.removeprefix(PREFIX)

    def among(names: list[str]) -> bool:
        return any(name == target or name.endswith(f".{target}") for target in names)

    layer = _LAYER.search(name)
    layers = config.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers
    for field, left_out in (
        ("target_modules", lambda names: isinstance(names, list) and not among(names)),
        ("exclude_modules", lambda names: isinstance(names, list) and among(names)),
        ("layers_to_transform", lambda _: layers and layer and int(layer["index"]) not in layers),
    ):
        if left_out(config.get(field)):
            raise MGMError(
                f"{path}: {field} is {shown(config[field])}, which leaves out {tensor.name} in "
                f"{tensor.file}; copy both from one adapter"
            )


def read_non_lora_weights(folder: Path) -> dict[str, LazyTensor]:
    """Read `non_lora_trainables.bin`, by native names; empty if there is no such file.

    The published training and ours always write it. An adapter trained by plain peft has none; it
    uses mining and projector of its base.

    Raises:
        MGMError: our training wrote the adapter, and the file is missing or empty.
    """
    file = folder / NON_LORA_FILE
    tensors = lazy_tensors(file) if is_present(file) else {}
    if tensors:
        return {native_name(name): tensor for name, tensor in tensors.items()}
    fault = f"{file}: has no weights" if is_present(file) else f"{file}: is missing"
    if BASE_DIGEST in stored_metadata(folder):
        raise MGMError(
            f"{fault}, and the adapter was trained with a mining and a projector of its own; copy "
            "it again"
        )
    logger.warning("%s; mining and projector of the base model are used", fault)
    return {}


def native_name(name: str) -> str:
    """Native name of a published model's weight, which peft may have wrapped once or twice."""
    name = name.removeprefix("base_model.")
    if name.startswith(("model.model.", "model.lm_head.")):
        name = name.removeprefix("model.")
    return to_native_key(name)


def merge_adapter(tensors: Mapping[str, LazyTensor], adapter: Adapter) -> dict[str, LazyTensor]:
    """Merge an adapter into `tensors`: each merged weight is computed when it is read.

    Raises:
        MGMError: the adapter is for weights that are missing or of another shape.
    """
    result = dict(tensors)
    for name, (a, b) in adapter.pairs.items():
        if name not in tensors:
            raise MGMError(
                f"{a.file}: {a.name} is for {name}, which the base model does not have; "
                "give the base model that it was trained on"
            )
        base = tensors[name]
        if (b.shape[0], a.shape[1]) != base.shape or b.shape[1] != a.shape[0]:
            raise MGMError(
                f"{a.file}: {a.name} {a.shape} and {b.name} {b.shape} do not fit "
                f"{base.name} {base.shape}; give the base model that it was trained on"
            )
        magnitude = adapter.magnitudes.get(name)
        if magnitude is not None and math.prod(magnitude.shape) != b.shape[0]:
            raise MGMError(
                f"{magnitude.file}: {magnitude.name} has shape {magnitude.shape}; expected "
                f"{b.shape[0]} numbers, copy it again"
            )
        result[name] = _merged_tensor(base, a, b, adapter.scale, magnitude)
    for name, bias in adapter.biases.items():
        if name not in tensors:
            raise MGMError(
                f"{bias.file}: {bias.name} is for {name}, which the base model does not have; "
                "give the base model that it was trained on"
            )
        result[name] = bias
    return result


def attach_adapter(model: PreTrainedModel, adapter: Adapter) -> None:
    """Attach an adapter to a model by peft, without merging it.

    Raises:
        MGMError: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MGMError(
            "a LoRA that is not merged needs peft; install the extra: pip install 'mgm[train]'"
        ) from error
    names = [name.removesuffix(".weight") for name in adapter.pairs]
    weights = {}
    for name, (a, b) in adapter.pairs.items():
        weights[f"{name.removesuffix('.weight')}.lora_A.weight"] = a.read()
        weights[f"{name.removesuffix('.weight')}.lora_B.weight"] = b.read()
    for name, magnitude in adapter.magnitudes.items():
        weights[f"{name.removesuffix('.weight')}.lora_magnitude_vector.weight"] = magnitude.read()
    weights |= {name: bias.read() for name, bias in adapter.biases.items()}
    settings: Any = LoraConfig(
        r=adapter.config["r"],
        lora_alpha=adapter.config["lora_alpha"],
        lora_dropout=adapter.config.get("lora_dropout", 0.0),
        bias=adapter.config.get("bias", "none"),
        use_rslora=adapter.config.get("use_rslora", False),
        use_dora=adapter.config.get("use_dora", False),
        target_modules=names,
    )
    model.load_adapter(peft_config=settings, adapter_state_dict=weights)


def _merged_tensor(
    base: LazyTensor, a: LazyTensor, b: LazyTensor, scale: float, magnitude: LazyTensor | None
) -> LazyTensor:
    def read() -> Tensor:
        change = b.read().float() @ a.read().float()
        weight = base.read().float().add_(change, alpha=scale)
        if magnitude is not None:
            norm = weight.norm(dim=1, keepdim=True)
            weight *= magnitude.read().float().flatten().unsqueeze(1) / norm
        return weight.to(base.dtype)

    return LazyTensor(base.name, base.file, base.shape, base.dtype, read)
