"""Makes torchvision importable beside a torch build for the CPU, in the environment it runs in.

torchvision's compiled half does not load there, and its other half registers shapes of operators
that are missing then. They are declared here, at the top of its package; nothing of ours calls
them.
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
    """Put the declarations there, once."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise SystemExit("torchvision is not installed here")
    file = Path(spec.origin)
    text = file.read_text(encoding="utf-8")
    if MARK not in text:
        file.write_text(f"{DECLARED}\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main()
