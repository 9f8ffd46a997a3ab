"""Maps weight names of published checkpoints to native ones and back."""

from collections.abc import Mapping

from mgm.model.files.lazy_tensor import LazyTensor

# Prefixes of weight names, published and native; the first match is replaced.
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
    # Other parameters of rivals of mining, in our files of a stage 1 or a LoRA; see docs/fusion.md.
    ("model.mining.", "mining."),
)


def to_native_key(name: str) -> str:
    """The native name of a published weight; other names are not changed."""
    return _renamed(name, WEIGHT_PREFIXES)


def to_published(name: str) -> str:
    """The published name of a native weight; other names are not changed."""
    return _renamed(name, tuple((ours, published) for published, ours in WEIGHT_PREFIXES))


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for prefix, replacement in table:
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix)
    return name


def native_tensors(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """A published checkpoint's tensors by native names, without buffers that are recomputed."""
    # Compat: earlier versions of transformers saved these buffers.
    computed = ("rotary_emb.inv_freq", "embeddings.position_ids")
    return {
        to_native_key(name): tensor
        for name, tensor in tensors.items()
        if not name.endswith(computed)
    }
