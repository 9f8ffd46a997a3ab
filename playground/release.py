"""Prepare a trained nano model, or a component of it, for release: bfloat16, no local paths.

python -m playground.release FOLDER OUT [--card FILE]
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mgm.atomic import atomic_folder
from mgm.errors import MGMError, Parser, one_line, run_command
from mgm.model.files.json_file import read_json

EXCLUDED_FILES = ("trainer_state.json",)
RELEASED_SUFFIXES = (".json", ".jinja", ".safetensors")


def release(folder: Path, out: Path, card: Path | None = None) -> None:
    """Copy `folder` to `out` atomically, with weights in bfloat16 and without local paths.

    Args:
        folder: output folder of the training of a model or of a component.
        out: folder to write.
        card: model card to write as README.md.

    Raises:
        MGMError: there are no weights in the folder, or a file cannot be read or written.
    """
    files = [
        file
        for file in sorted(folder.glob("*"))
        if file.suffix in RELEASED_SUFFIXES and file.name not in EXCLUDED_FILES
    ]
    if not any(file.suffix == ".safetensors" for file in files):
        raise MGMError(f"{folder}: holds no .safetensors file; name the folder of a model")
    # Read everything first, so that a read error is not reported as an error of `out`.
    contents = {file.name: _content(file) for file in files}
    if card is not None:
        contents["README.md"] = card.read_bytes()
    with atomic_folder(out) as part:
        for name, content in contents.items():
            (part / name).write_bytes(content)


def _content(file: Path) -> bytes:
    if file.suffix == ".safetensors":
        return _cast(file)
    if file.name == "config.json":
        return f"{json.dumps(_without_paths(read_json(file)), indent=2)}\n".encode()
    return file.read_bytes()


def _cast(file: Path) -> bytes:
    try:
        with safe_open(file, "pt") as weights:
            metadata = weights.metadata()
            names = weights.keys()
            tensors = {name: weights.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise MGMError(f"{file}: is damaged ({one_line(error)}); copy it again") from error
    tensors = {
        name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    return save(tensors, metadata)


def _without_paths(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    kept = {name: _without_paths(value) for name, value in config.items() if name[0] != "_"}
    return kept | ({"dtype": "bfloat16"} if "dtype" in kept else {})


def main() -> None:
    """Write the release of the folder of the command line."""
    parser = Parser(prog="python -m playground.release", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="output folder of a training")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--card", type=Path, help="model card to release as README.md")
    arguments = parser.parse_args()
    release(arguments.folder, arguments.out, arguments.card)


if __name__ == "__main__":
    run_command(main)
