#!/usr/bin/env bash
# Sets up the environment, then goes the whole way with a small Mini-Gemini: draws data, trains the two
# published stages from the shipped nano encoders and language model, evaluates on images it has never
# seen, and answers a question about a picture with the weights that ship with the project.
#
#   bash scripts/quickstart.sh
#
# What a run made (data, checkpoints, results) is used again by the next one that starts from the same
# weights and settings; delete work_dirs/quickstart-* to train anew. MGM_QUICKSTART_IMAGES is the number
# of training images: 5000, or 1200 on a CPU without instructions for bfloat16.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$0")/environment.sh" playground
started=$SECONDS
# Without instructions for bfloat16 a step takes longer: fewer images, and more steps for the same work.
fast=$(python -c 'import torch; from mgm.engine.device import cpu_has_bfloat16 as fast
print(int(torch.accelerator.is_available() or fast()))')
images=${MGM_QUICKSTART_IMAGES:-$((fast ? 5000 : 1200))}
batch=$((fast ? 32 : 8))
start=$(cat playground/generate.py playground/*/*.safetensors playground/*/*/*.safetensors \
    scripts/nano/train/*.sh scripts/quickstart.sh | sha256sum | cut -c1-8)
work=work_dirs/quickstart-$images-$start
data=playground/data/quickstart-$images
cores=$(nproc)
# On a machine with other work, threads that spin while they wait cost more than they win.
export OMP_WAIT_POLICY=PASSIVE
# Keep freed memory: a training step frees and takes the same blocks again and again.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000

say "1/6 Drawing $images training images and 100 held-out ones"
draw() { python -m playground.generate --min-cap-height 12 --workers "$cores" "$@"; }
draw --out "$data" --split train --count "$images" --seed 1
draw --out playground/data/held_out-100 --split held_out --count 100 --seed 2

if [ ! -f "$work/stage_1/config.json" ]; then
    say "2/6 Stage 1, alignment: projector and mining learn from captions"
    bash scripts/nano/train/stage_1.sh --data_path "$data/captions.json" --image_folder "$data/images" \
        --output_dir "$work/stage_1" --max_steps $((images * 2 / 3 / batch)) \
        --per_device_train_batch_size "$batch"
else
    say "2/6 Stage 1 is there: $work/stage_1"
fi

if [ ! -f "$work/stage_2/config.json" ]; then
    say "3/6 Stage 2, instruction tuning: the language model learns from conversations"
    bash scripts/nano/train/stage_2.sh --data_path "$data/conversations.json" --image_folder "$data/images" \
        --model_name_or_path "$work/stage_1" --output_dir "$work/stage_2" --per_device_train_batch_size "$batch"
else
    say "3/6 Stage 2 is there: $work/stage_2"
fi

# Evaluate into folder $1, or show what an earlier run found.
evaluate() {
    if [ -f "$1/accuracy.txt" ]; then
        cat "$1/accuracy.txt"
        echo "Plot: $1/accuracy.png"
    else
        python -m playground.evaluate --data playground/data/held_out-100 --out "$@"
    fi
}

say "4/6 Evaluation on held-out images: before and after instruction tuning"
evaluate "$work/evaluation" --model before="$work/stage_1" --model after="$work/stage_2"

say "5/6 For comparison: the weights that ship with the project, on the first 60 of those pictures"
evaluate "$work/evaluation-shipped" --model shipped=playground/mgm-nano --limit 60

say "6/6 A question about images/receipt.png, answered by playground/mgm-nano"
question="What is the total?"
echo "Question: $question"
printf 'Answer:   '
echo "$question" | python -m mgm.serve.cli --model-path playground/mgm-nano --image-file images/receipt.png \
    --temperature 0
say "Done in $(((SECONDS - started) / 60)) min. Ask more yourself:"
echo "    source ${MGM_VENV:-.venv}/bin/activate"
echo "    python -m mgm.serve.cli --model-path playground/mgm-nano --image-file images/receipt.png"
