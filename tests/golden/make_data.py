"""Selects golden data of tests/data for clones without the full golden folder. python
tests/golden/make_data.py ../shared/golden About 0.6 MB: templates, a part of the token ids and
labels, four tokenizers, three images.
"""

import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
WHOLE = (
    "text/prompts.json",
    "text/cli_multi_image.json",
    "text/tokenizer_image_token.json",
    "text/collator_samplers.json",
    "train/train_data.json",
    "train/train.json",
    "preprocess/preprocess.json",
    "preprocess/std_pad_gray200x310_aux_u8.png",
    "images/gray200x310.png",
    "images/rgba300x200.png",
    "images/small100x61.png",
)
TOKENIZERS = {
    "vicuna": ("tokenizer.model",),
    "yi": ("tokenizer.model", "added_tokens.json"),
    "gemma": ("tokenizer.json",),
    "llama3": ("tokenizer.json",),
}
FIELDS = ("version", "tokenizer", "conv", "has_image", "mm_use_im_start_end", "native")


def main(golden: Path) -> None:
    """Copy the selection from `golden` to the folder of this file."""
    for name in WHOLE:
        _copy(golden, name)
    for name, files in TOKENIZERS.items():
        for file in (*files, "tokenizer_config.json", "special_tokens_map.json"):
            _copy(golden, f"tokenizers/{name}/{file}")
    content = json.loads((golden / "text/preprocess.json").read_text(encoding="utf-8"))
    content["records"] = [
        {field: record[field] for field in (*FIELDS, "input_ids", "label_spans")}
        for record in content["records"]
        if record["native"] and record["tokenizer"] in TOKENIZERS and "input_ids" in record
    ]
    target = HERE / "text/preprocess.json"
    target.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")


def _copy(golden: Path, name: str) -> None:
    target = HERE / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(golden / name, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
