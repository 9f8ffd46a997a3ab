"""Saves a model with its processor and model card, and uploads it to the hub."""

import os
import tempfile
from pathlib import Path

from mgm.data.model_card import model_card
from mgm.data.processing_mgm import MGMProcessor
from mgm.errors import MGMError, hub_errors, one_line
from mgm.model.checkpoint.saved_files import replace_model
from mgm.model.loading import save_model
from mgm.model.modeling_mgm import MGMForConditionalGeneration


def save_pretrained(
    model: MGMForConditionalGeneration,
    processor: MGMProcessor,
    path: str | os.PathLike[str],
    name: str | None = None,
) -> None:
    """Save model, processor and model card; arguments as for `Engine.save_pretrained`."""
    with replace_model(Path(path)) as temporary:
        save_model(model, temporary)
        processor.save_pretrained(temporary)
        card = model_card(name or Path(path).name, model.config, processor)
        (temporary / "README.md").write_text(card, encoding="utf-8")


def push_to_hub(
    model: MGMForConditionalGeneration,
    processor: MGMProcessor,
    repo_id: str,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload a Mini-Gemini",
) -> str:
    """Upload model, processor and model card; arguments as for `Engine.push_to_hub`."""
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        save_pretrained(model, processor, folder, name=repo_id)
        try:
            hub = HfApi(token=token)
            hub.create_repo(repo_id, private=private, exist_ok=True)
            commit = hub.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                commit_message=commit_message,
            )
        except hub_errors() as error:
            raise MGMError(
                f"{repo_id}: not uploaded to the hub ({type(error).__name__}: "
                f"{one_line(error)[:200]}); check name, token and connection"
            ) from error
    return str(commit.commit_url)
