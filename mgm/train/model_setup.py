"""The model and the processor that a run starts from, put together as the flags say."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed
from transformers.utils import PROCESSOR_NAME

from mgm.data.image_processing_mgm import CONFIG_FIELDS, MGMImageProcessor
from mgm.data.processing_mgm import MGMProcessor
from mgm.data.processor_match import check_match
from mgm.data.text.stop_criteria import align_generation
from mgm.data.text.templates import version_template
from mgm.data.text.tokenizer import (
    check_vocabulary,
    image_token_id_of,
    load_tokenizer,
    vocabulary_size,
)
from mgm.errors import MGMError, faults_of
from mgm.model.checkpoint.base_models import MissingBaseError
from mgm.model.checkpoint.components import load_stage1
from mgm.model.families import TEXT_TYPE_OF_PUBLISHED, family_of
from mgm.model.files.hub import checkpoint_folder
from mgm.model.files.json_file import read_json
from mgm.model.files.weight_files import load_into
from mgm.model.loading import load_model
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.ops.attention import set_attention
from mgm.model.vision.convnext import load_convnext_tower
from mgm.model.vision.vit import load_vision_tower
from mgm.train.args.arguments import TrainingArguments
from mgm.train.args.validation import Arguments

logger = logging.getLogger(__name__)

# Compat: what the published flags default to when a model is put together from its parts.
PUBLISHED_DEFAULTS = {
    "projector_type": "linear",
    "vision_feature_layer": -1,
    "vision_feature_select": "patch",
    "image_aspect_ratio": "square",
    "image_size_aux": 320,
    "image_grid": 1,
    "image_global": False,
    "model_max_length": 512,
}
# What is fixed when a model is put together, and may not differ later.
GEOMETRY = {
    "projector_type": "mm_projector_type",
    "vision_feature_layer": "mm_vision_select_layer",
    "vision_feature_select": "mm_vision_select_feature",
}
IMAGE_SETTINGS = ("image_size_aux", "image_grid", "image_global", "image_aspect_ratio")


def build_model_and_processor(
    arguments: Arguments, resume_from: Path | None = None
) -> tuple[MGMForConditionalGeneration, MGMProcessor]:
    """Model, in float32, and processor, agreeing in geometry, template and special tokens.

    Where weights are divided, the first process alone reads them: the others' model has shapes, on
    the meta device, until `shard` or `divide` of `mgm.train.distributed` fills it.

    Args:
        arguments: the flags.
        resume_from: a checkpoint folder that replaces the flags' weights.

    Raises:
        MGMError: a folder is missing or unfit, or flags contradict each other or the folder.
    """
    model_flags, _, training = arguments
    if resume_from is not None:
        model_flags = replace(
            model_flags,
            model_name_or_path=str(resume_from),
            vision_tower=None,
            vision_tower_aux=None,
            pretrain_mm_mlp_adapter=None,
        )
        arguments = (model_flags, *arguments[1:])
    folder = checkpoint_folder(model_flags.model_name_or_path)
    set_seed(training.seed)  # fresh parts are the same in every run
    start = _from_checkpoint if _is_mini_gemini(folder) else _from_components
    with _without_zero3_init(training):
        model, processor = start(folder, arguments)
        place = _init_device(training)
        if place is not None:
            model.to(place)  # encoders of their own folders
        elif model_flags.pretrain_mm_mlp_adapter is not None:
            load_stage1(model, model_flags.pretrain_mm_mlp_adapter)
    if training.attn_implementation is not None:
        set_attention(model, training.attn_implementation)
    model.config.conversation = processor.conversation
    for name in CONFIG_FIELDS:
        setattr(processor.image_processor, name, getattr(model.config, name))
    if model_flags.version is not None:
        _check_vocabulary(processor, folder)
    _sync_special_tokens(model, processor)
    return model, processor


@contextmanager
def base_model_errors() -> Generator[None]:
    """Say what can be done where training finds no base model: it has no flag for that.

    Raises:
        MGMError: the block raised a MissingBaseError.
    """
    try:
        yield
    except MissingBaseError as error:
        raise MGMError(
            f"{error.fault}; restore it, or make one model of both with python -m mgm.train.merge "
            "ADAPTER MODEL --base BASE_MODEL, and start from that"
        ) from error


@contextmanager
def _without_zero3_init(training: TrainingArguments) -> Generator[None]:
    """Load whole weights under ZeRO-3 too: `mgm.train.distributed.zero3` divides them.

    transformers would divide those of each part by itself, before our names are known.
    """
    settings = getattr(training, "hf_deepspeed_config", None)
    if settings is None:
        yield
        return
    from transformers.integrations.deepspeed import (
        set_hf_deepspeed_config,
        unset_hf_deepspeed_config,
    )

    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(settings)


def _from_components(
    folder: Path, arguments: Arguments
) -> tuple[MGMForConditionalGeneration, MGMProcessor]:
    """A language model and encoders of their own folders; mining and projector are fresh."""
    flags = arguments[0]
    if _is_none(flags.vision_tower):
        raise MGMError(f"--vision_tower is missing: {folder} is a language model without encoders")
    tokenizer = load_tokenizer(folder)
    image_token_id = image_token_id_of(tokenizer)
    model = MGMForConditionalGeneration.from_parts(
        folder,
        str(flags.vision_tower),
        None if _is_none(flags.vision_tower_aux) else flags.vision_tower_aux,
        dtype=torch.float32,
        device=_init_device(arguments[2]),
        image_token_id=image_token_id,
        **(PUBLISHED_DEFAULTS | _given_values(arguments)),
    )
    rows = model.config.text_config.vocab_size
    highest = vocabulary_size(tokenizer) - 1
    if highest >= rows:
        raise MGMError(
            f"{folder}: its tokenizer has id {highest}, its model {rows} embeddings; "
            "copy both from one model"
        )
    family = family_of(model.config.text_config.model_type, set(tokenizer.get_vocab()))
    # Compat: published training writes what it does not know as for Vicuna (version v0).
    default = family.conversation if family else version_template("v0")
    if family is None and flags.version is None:
        logger.warning(
            "%s: no family of language models is known for %s; conversations are written as "
            "%s, name another template with --version",
            folder,
            model.config.text_config.model_type,
            default,
        )
    processor = MGMProcessor(
        MGMImageProcessor(),
        tokenizer,
        conversation=default if flags.version is None else version_template(flags.version),
        image_token_id=image_token_id,
        patch_size=model.config.vision_config.patch_size,
    )
    return model, processor


def _from_checkpoint(
    folder: Path, arguments: Arguments
) -> tuple[MGMForConditionalGeneration, MGMProcessor]:
    """A Mini-Gemini, native or published; flags that are given replace its own settings."""
    flags = arguments[0]
    template = None if flags.version is None else version_template(flags.version)
    with base_model_errors():
        model = load_model(folder, dtype=torch.float32, device=_init_device(arguments[2]))
        processor = MGMProcessor.from_pretrained(folder, conversation=template)
    _check_processor(model, processor, folder)
    given = _given_values(arguments)
    for name, flag in GEOMETRY.items():
        own = getattr(model.config, name)
        if given.get(name, own) != own:
            raise MGMError(f"--{flag} {given[name]}: {folder} was made with {own}; leave it out")
    for name, value in given.items():
        setattr(model.config, name, value)
    _replace_towers(model, folder, arguments)
    model.config.check()
    return model, processor


def _check_processor(
    model: MGMForConditionalGeneration, processor: MGMProcessor, folder: Path
) -> None:
    """Refuse a tokenizer or a processor of another model than the weights beside them.

    Raises:
        MGMError: names the file.
    """
    rows = model.config.text_config.vocab_size
    with faults_of(folder):
        check_vocabulary(processor.tokenizer, rows)
    with faults_of(folder / PROCESSOR_NAME):
        check_match(model.config, processor)


def _replace_towers(model: MGMForConditionalGeneration, folder: Path, arguments: Arguments) -> None:
    """Take encoders from folders that are given; 'none' takes the high-resolution one out."""
    vision, aux = arguments[0].vision_tower, arguments[0].vision_tower_aux
    if vision is not None:
        tower = load_vision_tower(vision, model.config.vision_feature_layer)
        load_into(model.vision_tower, tower.state_dict(), vision)  # refuses another geometry
        model.vision_tower, model.config.vision_config = tower, tower.config
    if aux is None:
        return
    if _is_none(aux):
        model.vision_tower_aux = model.mining = model.config.vision_aux_config = None
    elif model.vision_tower_aux is None:
        raise MGMError(
            f"--vision_tower_aux {aux}: {folder} was made without it; start from a language model"
        )
    else:
        tower_aux = load_convnext_tower(aux)
        load_into(model.vision_tower_aux, tower_aux.state_dict(), aux)
        model.vision_tower_aux, model.config.vision_aux_config = tower_aux, tower_aux.config


def _given_values(arguments: Arguments) -> dict[str, Any]:
    """Fields of the model's config that flags give a value."""
    model, data, training = arguments
    values = {name: getattr(model, flag) for name, flag in GEOMETRY.items()}
    values |= {name: getattr(data, name) for name in IMAGE_SETTINGS}
    values["model_max_length"] = training.model_max_length
    return {name: value for name, value in values.items() if value is not None}


def _init_device(training: TrainingArguments) -> str | None:
    """Where this process's weights go; None: the CPU."""
    return "meta" if training.loads_on_rank0 and training.process_index else None


def _is_none(path: str | None) -> bool:
    return path is None or path.lower() in ("none", "")


def _is_mini_gemini(folder: Path) -> bool:
    path = folder / "config.json"
    if not path.is_file():
        raise MGMError(
            f"{folder}: holds no config.json; give the folder of a language model or a Mini-Gemini"
        )
    found = read_json(path).get("model_type")
    if not isinstance(found, str):
        raise MGMError(f"{path}: model_type is {found!r}; expected a name, restore the file")
    return found in TEXT_TYPE_OF_PUBLISHED


def _check_vocabulary(processor: MGMProcessor, folder: Path) -> None:
    """Raise an MGMError if the template's marks are no tokens, but would be learned in pieces."""
    known = processor.tokenizer.get_vocab()
    for token in processor.template.tokens:
        if token not in known:
            raise MGMError(
                f"--version {processor.conversation}: it writes {token}, which is no token of "
                f"{folder}; choose the template that the language model was trained with, or add "
                "the token to its tokenizer and its embeddings"
            )


def _sync_special_tokens(model: MGMForConditionalGeneration, processor: MGMProcessor) -> None:
    """Tell the model what pads, begins and ends, so that `generate` alone stops where it should."""
    tokenizer, generation = processor.tokenizer, model.generation_config
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(tokenizer, name) is not None:
            setattr(model.config.text_config, name, getattr(tokenizer, name))
    generation.eos_token_id = None  # what is trained ends its answers as the template says
    align_generation(generation, tokenizer, processor.template)
