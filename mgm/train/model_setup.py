"""Builds model and processor from the training arguments."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed
from transformers.utils import PROCESSOR_NAME

from mgm.data.image_processing_mgm import IMAGE_CONFIG_FIELDS, MGMImageProcessor
from mgm.data.processing_mgm import MGMProcessor
from mgm.data.processor_match import check_match
from mgm.data.text.stop_criteria import sync_generation_config
from mgm.data.text.templates import version_template
from mgm.data.text.tokenizer import (
    check_vocabulary,
    image_token_id_of,
    load_tokenizer,
    vocabulary_size,
)
from mgm.errors import MGMError, prefix_errors
from mgm.model.checkpoint.base_models import MissingBaseError
from mgm.model.checkpoint.components import load_stage1
from mgm.model.families import family_of, is_mini_gemini
from mgm.model.files.hub import checkpoint_folder
from mgm.model.files.json_file import read_json
from mgm.model.files.weight_files import load_into
from mgm.model.loading import load_model
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.ops.attention import set_attention
from mgm.model.vision.convnext import load_convnext_tower
from mgm.model.vision.vit import load_vision_tower
from mgm.train.args.arguments import TrainingArguments
from mgm.train.args.config_fields import PUBLISHED_DEFAULTS, check_fixed_fields, config_fields
from mgm.train.args.validation import Arguments

logger = logging.getLogger(__name__)


def build_model_and_processor(
    arguments: Arguments, resume_from: Path | None = None
) -> tuple[MGMForConditionalGeneration, MGMProcessor]:
    """Model (float32) and processor, with consistent image settings, template and special tokens.

    With FSDP2 and ZeRO-3 only rank 0 reads the weights; on other ranks the model is on the meta
    device until `apply_fsdp` or `partition_parameters` fills it.

    Args:
        arguments: the flags.
        resume_from: a checkpoint whose weights replace those of the flags.

    Raises:
        MGMError: a folder is missing or unusable, or flags contradict each other or the folder.
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
    set_seed(training.seed)  # for the initialisation of new parameters
    build = _from_checkpoint if is_mini_gemini(_read_config(folder)) else _from_components
    with _without_zero3_init(training):
        model, processor = build(folder, arguments)
        device = _init_device(training)
        if device is not None:
            model.to(device)  # encoders that were loaded from their own folders
        elif model_flags.pretrain_mm_mlp_adapter is not None:
            load_stage1(model, model_flags.pretrain_mm_mlp_adapter)
    if training.attn_implementation is not None:
        set_attention(model, training.attn_implementation)
    model.config.conversation = processor.conversation
    for name in IMAGE_CONFIG_FIELDS:
        setattr(processor.image_processor, name, getattr(model.config, name))
    processor.patch_size = model.config.pixels_per_token
    if model_flags.version is not None:
        _check_vocabulary(processor, folder)
    _sync_special_tokens(model, processor)
    return model, processor


@contextmanager
def base_model_errors() -> Generator[None]:
    """Add a remedy to the error of an adapter without its base model: training has no --base.

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
    """Load full weights under ZeRO-3 too: `partition_parameters` partitions them later.

    transformers would partition each component while it loads, before they form our model.
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
    """A model from a language model and encoders; mining and projector are initialised."""
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
        **(PUBLISHED_DEFAULTS | config_fields(arguments)),
    )
    rows = model.config.text_config.vocab_size
    max_id = vocabulary_size(tokenizer) - 1
    if max_id >= rows:
        raise MGMError(
            f"{folder}: its tokenizer has id {max_id}, its model {rows} embeddings; "
            "copy both from one model"
        )
    family = family_of(model.config.text_config.model_type, set(tokenizer.get_vocab()))
    # Compat: published training uses Vicuna's template (version v0) for unknown models.
    default = family.conversation if family else version_template("v0")
    if family is None and flags.version is None:
        logger.warning(
            "%s: unknown language model family %s; using the conversation template %s, choose "
            "another with --version",
            folder,
            model.config.text_config.model_type,
            default,
        )
    processor = MGMProcessor(
        MGMImageProcessor(),
        tokenizer,
        conversation=default if flags.version is None else version_template(flags.version),
        image_token_id=image_token_id,
        patch_size=model.config.pixels_per_token,
    )
    return model, processor


def _from_checkpoint(
    folder: Path, arguments: Arguments
) -> tuple[MGMForConditionalGeneration, MGMProcessor]:
    """A Mini-Gemini, native or published; flags override fields of its config."""
    flags = arguments[0]
    template = None if flags.version is None else version_template(flags.version)
    with base_model_errors():
        model = load_model(folder, dtype=torch.float32, device=_init_device(arguments[2]))
        processor = MGMProcessor.from_pretrained(folder, conversation=template)
    _check_processor(model, processor, folder)
    given = config_fields(arguments)
    check_fixed_fields(given, model.config, folder)
    for name, value in given.items():
        setattr(model.config, name, value)
    _replace_towers(model, folder, arguments)
    model.config.check()
    return model, processor


def _check_processor(
    model: MGMForConditionalGeneration, processor: MGMProcessor, folder: Path
) -> None:
    """Refuse a tokenizer or a processor that does not belong to the model.

    Raises:
        MGMError: names the file.
    """
    rows = model.config.text_config.vocab_size
    with prefix_errors(folder):
        check_vocabulary(processor.tokenizer, rows)
    with prefix_errors(folder / PROCESSOR_NAME):
        check_match(model.config, processor)


def _replace_towers(model: MGMForConditionalGeneration, folder: Path, arguments: Arguments) -> None:
    """Replace encoders by those of the flags; 'none' removes the high-resolution one."""
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


def _init_device(training: TrainingArguments) -> str | None:
    """The device that weights are loaded to; None: the CPU."""
    return "meta" if training.loads_on_rank0 and training.process_index else None


def _is_none(path: str | None) -> bool:
    return path is None or path.lower() in ("none", "")


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise MGMError(
            f"{folder}: has no config.json; give the folder of a language model or a Mini-Gemini"
        )
    values = read_json(path)
    model_type = values.get("model_type")
    if not isinstance(model_type, str):
        raise MGMError(f"{path}: model_type is {model_type!r}; expected a name, restore the file")
    return values


def _check_vocabulary(processor: MGMProcessor, folder: Path) -> None:
    """Raise an MGMError if the template's markers are not special tokens of the tokenizer."""
    vocabulary = processor.tokenizer.get_vocab()
    for token in processor.template.tokens:
        if token not in vocabulary:
            raise MGMError(
                f"--version {processor.conversation}: it contains {token}, which is not a token of "
                f"{folder}; choose the template that the language model was trained with, or add "
                "the token to its tokenizer and its embeddings"
            )


def _sync_special_tokens(model: MGMForConditionalGeneration, processor: MGMProcessor) -> None:
    """Set special token ids of the model, so that plain `generate` stops at the end of a turn."""
    tokenizer, generation = processor.tokenizer, model.generation_config
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(tokenizer, name) is not None:
            setattr(model.config.text_config, name, getattr(tokenizer, name))
    generation.eos_token_id = None  # set below, from the template
    sync_generation_config(generation, tokenizer, processor.template)
