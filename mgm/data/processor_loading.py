"""What a model folder says about its processor, in our layout or in the published one."""

import os
from pathlib import Path
from typing import Any

from mgm.data.image_processing_mgm import CONFIG_FIELDS, MGMImageProcessor
from mgm.data.text.tokenizer import load_tokenizer
from mgm.errors import MGMError
from mgm.model.checkpoint.checkpoint import base_folder, checkpoint_config, needs_base
from mgm.model.families import family_of
from mgm.model.files.hub import WHERE, checkpoint_folder
from mgm.model.files.json_file import read_json

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


def read_processor(path: str | os.PathLike[str], given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `MGMProcessor` from a folder or hub name; those `given` come first.

    Raises:
        MGMError: there is no such folder, or it lacks a file or holds a broken one.
    """
    where = {key: given[key] for key in WHERE if given.get(key) is not None}
    folder = checkpoint_folder(path, weights=False, **where)
    base = given.get("base")
    settings = _read(folder / "processor_config.json")
    found = {name: settings[name] for name in _ARGUMENTS if name in settings}
    found.pop("image_processor", None)
    if settings.get("processor_class") != "MGMProcessor":
        found = _from_model(folder, base)
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        found["chat_template"] = jinja.read_text(encoding="utf-8")
    if given.get("conversation") not in (None, found.get("conversation")):
        found.pop("chat_template", None)  # it belongs to the other template
    found |= {name: given[name] for name in _ARGUMENTS if given.get(name) is not None}
    if "tokenizer" not in found:
        # Compat: published LoRA folders hold no tokenizer: it is the base model's.
        borrowed = needs_base(folder) and not any(folder.glob("tokenizer*"))
        found["tokenizer"] = load_tokenizer(base_folder(folder, base) if borrowed else folder)
    if "image_processor" not in found:
        found["image_processor"] = MGMImageProcessor(**_image_settings(settings, folder, base))
    if found.get("conversation") is None:
        family = family_of(found["model_type"], set(found["tokenizer"].get_vocab()))
        # Compat: published training writes what it does not know as for Vicuna.
        found["conversation"] = family.conversation if family else "vicuna_v1"
    found.pop("model_type", None)
    return found


def _from_model(folder: Path, base: str | None) -> dict[str, Any]:
    raw = _read(folder / "config.json")
    if not raw:
        raise MGMError(
            f"{folder}: has neither processor_config.json nor config.json; "
            "give the folder of a Mini-Gemini model"
        )
    config = checkpoint_config(folder, base)
    return {
        "conversation": config.conversation,
        "model_type": config.text_config.model_type,
        "image_token_id": config.image_token_id,
        "patch_size": config.vision_config.patch_size,
        "wrap_images": bool(raw.get("mm_use_im_start_end", False)),
    }


def _image_settings(settings: dict[str, Any], folder: Path, base: str | None) -> dict[str, Any]:
    for found in (settings.get("image_processor"), _read(folder / "preprocessor_config.json")):
        if found and found.get("image_processor_type") == "MGMImageProcessor":
            return {name: value for name, value in found.items() if name != "image_processor_type"}
    config = checkpoint_config(folder, base)
    return {name: getattr(config, name) for name in CONFIG_FIELDS}


def _read(file: Path) -> dict[str, Any]:
    """The settings in a JSON file; none if there is no such file."""
    return read_json(file) if file.is_file() else {}
