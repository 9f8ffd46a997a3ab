"""Loads the arguments of `MGMProcessor` from a model folder, native or published."""

import os
from pathlib import Path
from typing import Any

from mgm.data.image_processing_mgm import IMAGE_CONFIG_FIELDS, MGMImageProcessor
from mgm.data.text.jinja import check_syntax
from mgm.data.text.templates import TEMPLATES
from mgm.data.text.tokenizer import load_tokenizer
from mgm.errors import MGMError, prefix_errors
from mgm.model.checkpoint.base_models import base_folders, is_adapter_checkpoint
from mgm.model.checkpoint.checkpoint import checkpoint_config
from mgm.model.families import family_of
from mgm.model.files.hub import DOWNLOAD_OPTIONS, checkpoint_folder
from mgm.model.files.json_fields import (
    BOOLEAN,
    TEXT,
    TOKEN_ID,
    Rule,
    check_fields,
    integer,
    one_of,
    optional,
)
from mgm.model.files.json_file import config_errors, is_present, read_optional_json, read_text

_ARGUMENTS = (
    "image_processor",
    "tokenizer",
    "conversation",
    "image_token_id",
    "patch_size",
    "wrap_images",
    "chat_template",
    "padding_side",
)

_CONVERSATION = one_of(*TEMPLATES)
_RULES: dict[str, Rule] = {
    "conversation": _CONVERSATION,
    "image_token_id": optional(TOKEN_ID),
    "patch_size": integer(1),
    "wrap_images": BOOLEAN,
    "chat_template": optional(TEXT),
    "padding_side": one_of("left", "right"),
    "image_processor": Rule(lambda value: isinstance(value, dict), "an object"),
}


def read_processor(path: str | os.PathLike[str], given: dict[str, Any]) -> dict[str, Any]:
    """Load the arguments of `MGMProcessor` from a folder or the hub; `given` ones override them.

    Raises:
        MGMError: the folder does not exist, or a file in it is missing or broken.
    """
    where = {key: given[key] for key in DOWNLOAD_OPTIONS if given.get(key) is not None}
    folder = checkpoint_folder(path, weights=False, **where)
    base = given.get("base")
    file = folder / "processor_config.json"
    settings = read_optional_json(file)
    check_fields(settings, _RULES, file)
    arguments = {name: settings[name] for name in _ARGUMENTS if name in settings}
    arguments.pop("image_processor", None)
    if settings.get("processor_class") != "MGMProcessor":
        arguments = _from_model(folder, base)
    jinja = folder / "chat_template.jinja"
    if is_present(jinja):
        arguments["chat_template"] = read_text(jinja)
        check_syntax(arguments["chat_template"], jinja)
    if given.get("conversation") not in (None, arguments.get("conversation")):
        arguments.pop("chat_template", None)  # made for another template
    arguments |= {name: given[name] for name in _ARGUMENTS if given.get(name) is not None}
    if "tokenizer" not in arguments:
        arguments["tokenizer"] = load_tokenizer(_tokenizer_folder(folder, base))
    if "image_processor" not in arguments:
        arguments["image_processor"] = _image_processor(file, settings, folder, base)
    if arguments.get("conversation") is None:
        family = family_of(arguments.get("model_type", ""), set(arguments["tokenizer"].get_vocab()))
        # Compat: published training uses Vicuna's template for unknown models.
        arguments["conversation"] = family.conversation if family else "vicuna_v1"
    arguments.pop("model_type", None)
    return arguments


def _tokenizer_folder(folder: Path, base: str | None) -> Path:
    """The folder of the tokenizer. Compat: published LoRA folders use the base model's."""
    if not is_adapter_checkpoint(folder) or any(folder.glob("tokenizer*")):
        return folder
    bases = base_folders(folder, base)
    return next((folder for folder in bases if any(folder.glob("tokenizer*"))), bases[-1])


def _from_model(folder: Path, base: str | None) -> dict[str, Any]:
    raw = read_optional_json(folder / "config.json")
    if not raw:
        raise MGMError(
            f"{folder}: has neither processor_config.json nor config.json; "
            "give the folder of a Mini-Gemini model"
        )
    config = checkpoint_config(folder, base)
    rules = {"conversation": optional(_CONVERSATION), "mm_use_im_start_end": optional(BOOLEAN)}
    check_fields(raw, rules, folder / "config.json")
    return {
        "conversation": config.conversation,
        "model_type": config.text_config.model_type,
        "image_token_id": config.image_token_id,
        "patch_size": config.pixels_per_token,
        "wrap_images": bool(raw.get("mm_use_im_start_end", False)),
    }


def _image_processor(
    first: Path, settings: dict[str, Any], folder: Path, base: str | None
) -> MGMImageProcessor:
    """Load from `settings` in the file `first`, preprocessor_config.json, or the model's config."""
    other = folder / "preprocessor_config.json"
    for file, fields in (
        (first, settings.get("image_processor")),
        (other, read_optional_json(other)),
    ):
        if fields and fields.get("image_processor_type") == "MGMImageProcessor":
            values = {n: value for n, value in fields.items() if n != "image_processor_type"}
            with config_errors(file), prefix_errors(file):
                return MGMImageProcessor(**values)
    config = checkpoint_config(folder, base)
    with prefix_errors(folder / "config.json"):
        return MGMImageProcessor(**{name: getattr(config, name) for name in IMAGE_CONFIG_FIELDS})
