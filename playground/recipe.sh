#!/usr/bin/env bash
# Makes what the experiments start from, from nothing: the tokenizer, the cell code, the nano language model, and the
# encoders of every arm. `python -m playground.ablation` draws the data and trains the arms from there.
#
#   bash playground/recipe.sh [folder for the result, default work_dirs/recipe]
#
# Run it again after it was stopped: what is there is not repeated, and each training goes on from where
# it was last kept, a few minutes before. playground/README.md states the hours it takes on 2 cores.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$0")/../scripts/environment.sh" playground
out=${1:-work_dirs/recipe}
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

learn_language() { python -m playground.pretraining.language_model --photos "$photos" "$@"; }
learn_images() { python -m playground.pretraining.encoders --tokenizer "$out/tokenizer" --photos "$photos" "$@"; }

cell_code() {
    [ -d "$out/cell_code" ] ||
        learn_language --tokenizer "$out/tokenizer" --train-cell-code --out "$out/cell_code" \
            --learning-rate 3e-3 --steps 3000 --decay-ratio 0
}
language_model() {
    [ -d "$out/llama-nano" ] ||
        learn_language --init-from "$out/cell_code" --out "$out/llama-nano" --steps 18000 --cell-ratio 0.97 \
            --learning-rate 2e-3 --decay-ratio 0.6
}

# Every encoder learns in two parts, the second with the cell code; finished encoders are left as they are.
first_part() { learn_images --encoder-set "$1" --out "$out/encoders_without_code" --steps 4000 --decay-ratio 0; }
second_part() {
    learn_images --encoder-set "$1" --init-from "$out/encoders_without_code" --language-model "$out/cell_code" \
        --out "$out/encoders" --steps 18000 --decay-ratio 0.6 --seed 1100000000
}
both_parts() {
    first_part "$1"
    second_part "$1"
}

first_encoders() { first_part base; }
language_and_encoders() {
    language_model
    both_parts fine-vit
    both_parts half-convnext
}
other_encoders() {
    second_part base
    both_parts large-vit
    both_parts double-convnext
}

python -m playground.photos --out "$photos"
[ -d "$out/tokenizer" ] || python -m playground.tokenizer --out "$out/tokenizer" --photos "$photos"
side_by_side cell_code first_encoders
side_by_side language_and_encoders other_encoders
