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
        OMP_NUM_THREADS=$cores learn_language --tokenizer "$out/tokenizer" --train-cell-code --out "$out/cell_code" \
            --learning-rate 3e-3 --steps 3000 --decay-ratio 0
}
language_model() {
    [ -d "$out/llama-nano" ] ||
        learn_language --init-from "$out/cell_code" --out "$out/llama-nano" --steps 18000 --cell-ratio 0.97 \
            --learning-rate 2e-3 --decay-ratio 0.6
}
encoders() { # of each set; those that are finished are left as they are
    local set
    for set in "$@"; do
        learn_images --encoder-set "$set" --language-model "$out/cell_code" --out "$out/encoders" --steps 12000 \
            --decay-ratio 0.6
    done
}

language_model_and_encoders() {
    language_model
    encoders fine-vit half-convnext
}
other_encoders() { encoders base large-vit double-convnext; }

python -m playground.photos --out "$photos"
[ -d "$out/tokenizer" ] || python -m playground.tokenizer --out "$out/tokenizer" --photos "$photos"
cell_code
side_by_side language_model_and_encoders other_encoders
