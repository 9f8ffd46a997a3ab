#!/usr/bin/env bash
# Makes everything that ships under playground/ again, from nothing: the tokenizer, the pre-trained nano
# encoders and language model (playground/model_zoo), and the finished model (playground/mgm-nano).
#
#   bash playground/recipe.sh [folder for the result, default work_dirs/recipe]
#
# Run it again after it was stopped: what is there is not repeated, and each training goes on from where
# it was last kept, a few minutes before. playground/README.md states the hours it takes on 2 cores.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$0")/../scripts/environment.sh" playground
out=${1:-work_dirs/recipe}
zoo=$out/model_zoo
data=playground/data/recipe
photos=playground/data/photos
cores=$(nproc)
# Two trainings run side by side, each on half of the cores: one of them gains little by all.
export OMP_NUM_THREADS=$((cores > 1 ? cores / 2 : 1)) OMP_WAIT_POLICY=PASSIVE
# Keep freed memory: a training step frees and takes the same blocks again and again.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000
trap 'for job in $(jobs -p); do kill -- "-$job" 2>/dev/null || true; done' EXIT

side_by_side() {
    set -m # a process group of its own, which ends as a whole where the other fails
    "$1" &
    local other=$!
    set +m
    "$2"
    wait "$other"
}

draw() { python -m playground.generate --photos "$photos" "$@"; }
learn_language() { python -m playground.pretraining.language_model "$@"; }
learn_images() { python -m playground.pretraining.encoders --tokenizer "$out/tokenizer" --batch-size 8 "$@"; }

code_of_cells() {
    [ -d "$out/llama-code" ] ||
        learn_language --tokenizer "$out/tokenizer" --train-cell-code --out "$out/llama-code" \
            --learning-rate 3e-3 --steps 3000 --decay-ratio 0
}
encoders_that_read() {
    [ -d "$out/encoders/clip-vit-nano-patch14-168" ] ||
        learn_images --out "$out/encoders" --steps 4000 --decay-ratio 0
}
language_model() {
    [ -d "$zoo/llama-nano" ] ||
        learn_language --init-from "$out/llama-code" --out "$zoo/llama-nano" --steps 18000 --cell-ratio 0.97 \
            --learning-rate 2e-3 --decay-ratio 0.6
}
encoders_and_data() {
    [ -d "$zoo/clip-vit-nano-patch14-168" ] ||
        learn_images --init-from "$out/encoders" --language-model "$out/llama-code" --out "$zoo" --steps 18000 --decay-ratio 0.6
    draw --out "$data" --split train --count 60000 --seed 1
    draw --out playground/data/held_out --split held_out --count 200 --seed 2
}

# Both stages, into $1.
learn_jointly() {
    local to=$1
    [ -f "$to/stage_1/config.json" ] || bash scripts/nano/train/stage_1.sh \
        --data_path "$data/captions.json" --image_folder "$data/images" \
        --model_name_or_path "$zoo/llama-nano" --vision_tower "$zoo/clip-vit-nano-patch14-168" \
        --vision_tower_aux "$zoo/convnext-nano-384" --output_dir "$to/stage_1" --max_steps 300
    [ -f "$to/stage_2/config.json" ] || bash scripts/nano/train/stage_2.sh \
        --data_path "$data/conversations.json" --image_folder "$data/images" \
        --model_name_or_path "$to/stage_1" --output_dir "$to/stage_2" --per_device_train_batch_size 16 \
        --save_strategy steps --save_steps 250 --save_total_limit 1 \
        --optimize_vision_tower True --optimize_vision_tower_aux True
}

python -m playground.photos --out "$photos"
[ -d "$out/tokenizer" ] || python -m playground.tokenizer --out "$out/tokenizer" --photos "$photos"
side_by_side code_of_cells encoders_that_read
side_by_side language_model encoders_and_data
OMP_NUM_THREADS=$cores learn_jointly "$out/mgm-nano"
python -m playground.evaluate --data playground/data/held_out --out "$out/evaluation" \
    --model mgm-nano="$out/mgm-nano/stage_2"

for part in llama-nano clip-vit-nano-patch14-168 convnext-nano-384; do
    python -m playground.release "$zoo/$part" "$out/shipped/model_zoo/$part"
done
python -m playground.release "$out/mgm-nano/stage_2" "$out/shipped/mgm-nano" \
    --card playground/model_card.md
