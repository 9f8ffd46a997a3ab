"""Weight names of published checkpoints, to ours and back."""

from collections.abc import Mapping

from mgm.model.files.lazy_tensor import LazyTensor

# Weight names by their beginnings: published, ours. The first that fits decides.
WEIGHT_PREFIXES = (
    ("model.embed_tokens.", "language_model.model.embed_tokens."),
    ("model.layers.", "language_model.model.layers."),
    ("model.norm.", "language_model.model.norm."),
    ("lm_head.", "language_model.lm_head."),
    ("model.vision_tower.vision_tower.vision_model.", "vision_tower."),
    ("model.vision_tower_aux.vision_stem.", "vision_tower_aux.stem."),
    ("model.vision_tower_aux.vision_stages.", "vision_tower_aux.stages."),
    ("model.mm_projector.", "projector."),
    ("model.vlm_uni_query_projector.0.", "mining.query.norm."),
    ("model.vlm_uni_query_projector.1.", "mining.query."),
    ("model.vlm_uni_aux_projector.0.", "mining.key.norm."),
    ("model.vlm_uni_aux_projector.1.", "mining.key."),
    ("model.vlm_uni_val_projector.0.", "mining.value.norm."),
    ("model.vlm_uni_val_projector.1.", "mining.value."),
)


def to_native_key(name: str) -> str:
    """A published weight name as ours; any other name as it is."""
    return _renamed(name, WEIGHT_PREFIXES)


def to_published(name: str) -> str:
    """Our weight name as published; any other name as it is."""
    return _renamed(name, tuple((ours, published) for published, ours in WEIGHT_PREFIXES))


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for beginning, replacement in table:
        if name.startswith(beginning):
            return replacement + name.removeprefix(beginning)
    return name


def native_tensors(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """A published checkpoint's tensors by our names, without those that are computed anew."""
    # Compat: earlier transformers saved these two with the weights.
    computed = ("rotary_emb.inv_freq", "embeddings.position_ids")
    return {
        to_native_key(name): tensor
        for name, tensor in tensors.items()
        if not name.endswith(computed)
    }
