"""Selects from the golden folder what tests/train needs in a clone that lies elsewhere.

    python tests/golden/make_train.py ../shared/golden

Run it after make_data.py and make_models.py: it adds 0.4 MB to what they select.
"""

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
WHOLE = (
    "train/stage2_after4.npz",
    "work_dirs/MGM/MGM-7B/tokenizer.model",
    "work_dirs/MGM/MGM-7B/tokenizer_config.json",
    "work_dirs/MGM/MGM-7B/special_tokens_map.json",
    "images/sq336.png",
    "images/sq512.png",
    "images/tall241x719.png",
    "images/wide900x300.png",
)


def main(golden: Path) -> None:
    """Copy the selection from `golden` to the folder of this file."""
    for name in WHOLE:
        target = HERE / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(golden / name, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
