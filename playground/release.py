"""Write trained nano parts or a trained nano model as they ship: weights in bfloat16, no paths.

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

LEFT_OUT = ("trainer_state.json",)  # of a training's output folder
KEPT = (".json", ".jinja", ".safetensors")


def release(folder: Path, out: Path, card: Path | None = None) -> None:
    """Write `folder` to `out`, which appears when it is complete.

    Args:
        folder: a model, or one of its parts, as its training left it.
        card: a model card, which becomes README.md.

    Raises:
        MGMError: there are no weights in the folder, or a file cannot be read or written.
    """
    files = [f for f in sorted(folder.glob("*")) if f.suffix in KEPT and f.name not in LEFT_OUT]
    if not any(file.suffix == ".safetensors" for file in files):
        raise MGMError(f"{folder}: holds no .safetensors file; name the folder of a model")
    # All is read first: a fault in there is none of the folder that is written.
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
            tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
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
    """Read the command line and write what ships."""
    parser = Parser(prog="python -m playground.release", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--card", type=Path, help="a model card to ship as README.md")
    arguments = parser.parse_args()
    release(arguments.folder, arguments.out, arguments.card)


if __name__ == "__main__":
    run_command(main)
