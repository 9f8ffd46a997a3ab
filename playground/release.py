"""Write trained nano parts or a trained nano model as they ship: weights in bfloat16, no paths.

python -m playground.release FOLDER OUT [--card FILE]
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mgm.atomic import atomic_folder
from mgm.errors import MGMError, Parser, run_command

LEFT_OUT = ("trainer_state.json",)  # of a training's output folder
KEPT = (".json", ".jinja", ".safetensors")


def release(folder: Path, out: Path, card: Path | None = None) -> None:
    """Write `folder` to `out`, which appears when it is complete.

    Args:
        folder: a model, or one of its parts, as its training left it.
        card: a model card, which becomes README.md.

    Raises:
        MGMError: there are no weights in the folder.
    """
    files = [f for f in sorted(folder.glob("*")) if f.suffix in KEPT and f.name not in LEFT_OUT]
    if not any(file.suffix == ".safetensors" for file in files):
        raise MGMError(f"{folder}: holds no .safetensors file; name the folder of a model")
    with atomic_folder(out) as part:
        for file in files:
            if file.suffix == ".safetensors":
                _cast(file, part / file.name)
            elif file.name == "config.json":
                config = _without_paths(json.loads(file.read_text(encoding="utf-8")))
                (part / file.name).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
            else:
                shutil.copyfile(file, part / file.name)
        if card is not None:
            shutil.copyfile(card, part / "README.md")


def _cast(file: Path, out: Path) -> None:
    with safe_open(file, "pt") as weights:
        metadata = weights.metadata()
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
    tensors = {
        name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    save_file(tensors, out, metadata)


def _without_paths(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    kept = {name: _without_paths(value) for name, value in config.items() if name[0] != "_"}
    return kept | ({"dtype": "bfloat16"} if "dtype" in kept else {})


def main() -> None:
    parser = Parser(prog="python -m playground.release", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--card", type=Path, help="a model card to ship as README.md")
    arguments = parser.parse_args()
    release(arguments.folder, arguments.out, arguments.card)


if __name__ == "__main__":
    run_command(main)
