"""Patch the installed torchvision, so that it can be imported with a CPU build of torch.

torchvision's compiled extension does not load there, and its Python code registers shape functions
of operators that are then missing. This script declares them at the top of torchvision's package.
Our code does not call them.
"""

import importlib.util
from pathlib import Path

MARK = "# Declared for a torch build without compiled operators."
DECLARED = f"""{MARK}
import torch as _torch

_declared = _torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(_torch.ops.torchvision, _name):
        _declared.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def main() -> None:
    """Insert the declarations, unless they are there."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise SystemExit("torchvision is not installed here")
    file = Path(spec.origin)
    text = file.read_text(encoding="utf-8")
    if MARK not in text:
        file.write_text(f"{DECLARED}\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main()
