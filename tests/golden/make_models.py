"""Selects from the golden folder what tests/model needs in a clone that lies elsewhere.

    python tests/golden/make_models.py ../shared/golden

About 2 MB: one checkpoint (the HD one shares its weights), thinned figures of its cases.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
CASES = {
    "mgm_llama": ("single", "textonly_noimages"),
    "mgm_llama_hd": ("single",),
}
CHECKPOINT = "work_dirs/MGM/MGM-7B"
HD_CHECKPOINT = "work_dirs/MGM/MGM-7B-HD"
SMALL = ("config.json", "generation_config.json", "model.safetensors.index.json")
SHARDS = tuple(f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3))
WHOLE = (
    "models/mgm_llama_grad_norms.json",
    "models/mgm_llama_grads.npz",
    "images/land640x480.png",
)
NAMES = ("mgm_llama", "mgm_gemma", "mgm_mixtral")
STAGE_STRIDE = 8
ROW_STRIDE = 4
STRIDED = ("lr_feat", "pre_proj", "proj", "mine0_out", "mine1_out")
DROPPED = ("inputs_embeds", "hr_feat_strided", *(f"hr_stage{n}_strided" for n in range(4)))


def main(golden: Path) -> None:
    """Copy the selection from `golden` to the folder of this file."""
    for name in (*WHOLE, *(f"{CHECKPOINT}/{file}" for file in (*SMALL, *SHARDS))):
        _copy(golden, name)
    for file in SMALL:
        _copy(golden, f"{HD_CHECKPOINT}/{file}")
    for file in SHARDS:
        link = HERE / HD_CHECKPOINT / file
        link.unlink(missing_ok=True)
        link.symlink_to(Path("..") / "MGM-7B" / file)
    manifest = _json(golden, "models/manifest.json")
    for model in list(manifest):
        if model not in CASES:
            del manifest[model]
            continue
        manifest[model]["cases"] = {case: manifest[model]["cases"][case] for case in CASES[model]}
        for entry in manifest[model]["cases"].values():
            _thin(golden, entry)
    _write("models/manifest.json", manifest)
    for name in NAMES:
        path = f"models/{name}_state_dict.json"
        _write(path, dict.fromkeys(_json(golden, path)))
    quirks = _json(golden, "quirks.json")
    wanted = [name for name in quirks if name.startswith(("stage1_mm_projector_bin", "optimizer_"))]
    _write("quirks.json", {name: quirks[name] for name in wanted})
    layout = _json(golden, "released_layout.json")
    _write(
        "released_layout.json", {size: {"keys": list(of["keys"])} for size, of in layout.items()}
    )


def _thin(golden: Path, entry: dict[str, Any]) -> None:
    stride = STAGE_STRIDE // entry.get("stage_row_stride", STAGE_STRIDE)
    with np.load(golden / "models" / entry["file"]) as source:
        figures = {name: source[name] for name in source.files if name not in DROPPED}
    for name, values in figures.items():
        if name in STRIDED:
            figures[name] = values[:, ::stride]
        elif name.startswith(("rows_", "logits_", "embeds_")):
            figures[name] = values[::ROW_STRIDE]
    entry["stage_row_stride"] = STAGE_STRIDE
    np.savez_compressed(HERE / "models" / entry["file"], **figures)


def _copy(golden: Path, name: str) -> None:
    target = HERE / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(golden / name, target)


def _json(golden: Path, name: str) -> Any:
    return json.loads((golden / name).read_text(encoding="utf-8"))


def _write(name: str, content: Any) -> None:
    (HERE / name).write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
