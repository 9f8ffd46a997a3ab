#!/usr/bin/env bash
# Makes everything that ships under playground/ again, from nothing: the tokenizer, the pre-trained nano
# encoders and language model (playground/model_zoo), and the finished model (playground/mgm-nano).
#
#   bash playground/recipe.sh [folder for the result, default work_dirs/recipe]
#
# Steps that are there are not repeated. playground/README.md states the hours it takes on 2 cores.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$0")/../scripts/environment.sh" playground
out=${1:-work_dirs/recipe}
zoo=$out/model_zoo
cores=$(nproc)
export OMP_WAIT_POLICY=PASSIVE
# Keep freed memory: a training step frees and takes the same blocks again and again.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000

[ -d "$out/tokenizer" ] || python -m playground.tokenizer --out "$out/tokenizer"
[ -d "$out/llama-text" ] ||
    python -m playground.pretraining.language_model --tokenizer "$out/tokenizer" --out "$out/llama-text" \
        --batch-size 24 --learning-rate 3e-3 --steps 6000
[ -d "$out/llama-signs" ] ||
    python -m playground.pretraining.language_model --start "$out/llama-text" --out "$out/llama-signs" \
        --shown 0.9 --kinds sign --steps 1500
[ -d "$zoo/llama-nano" ] ||
    python -m playground.pretraining.language_model --start "$out/llama-signs" --out "$zoo/llama-nano" \
        --shown 0.9 --steps 12000
[ -d "$zoo/convnext-nano-384" ] ||
    python -m playground.pretraining.encoders --language-model "$out/llama-signs" --out "$zoo"

data=playground/data/recipe
python -m playground.generate --out "$data" --split train --count 60000 --seed 1 --workers "$cores"
python -m playground.generate --out playground/data/held_out --split held_out --count 500 --seed 2 \
    --workers "$cores"

[ -f "$out/stage_1/config.json" ] || bash scripts/nano/train/stage_1.sh \
    --data_path "$data/captions.json" --image_folder "$data/images" \
    --model_name_or_path "$zoo/llama-nano" --vision_tower "$zoo/clip-vit-nano-patch14-168" \
    --vision_tower_aux "$zoo/convnext-nano-384" --output_dir "$out/stage_1" --max_steps 400
[ -f "$out/stage_2/config.json" ] || bash scripts/nano/train/stage_2.sh \
    --data_path "$data/conversations.json" --image_folder "$data/images" \
    --model_name_or_path "$out/stage_1" --output_dir "$out/stage_2"
python -m playground.evaluate --data playground/data/held_out --out "$out/evaluation" \
    --model mgm-nano="$out/stage_2"
