#!/usr/bin/env bash
# Stage 2 of the nano model, instruction tuning: conversations, and the language model is trained too.
#
#   bash scripts/nano/train/stage_2.sh [any flag of python -m mgm.train]
set -euo pipefail
cd "$(dirname "$0")/../../.."

python -m mgm.train \
    --model_name_or_path work_dirs/nano/stage_1 \
    --version nano \
    --data_path playground/data/train/conversations.json \
    --image_folder playground/data/train/images \
    --image_aspect_ratio pad \
    --bf16 True \
    --output_dir work_dirs/nano/stage_2 \
    --num_train_epochs 1 \
    --per_device_train_batch_size 32 \
    --optim adamw_torch_fused \
    --learning_rate 1e-3 \
    --weight_decay 0. \
    --warmup_ratio 0.03 \
    --lr_scheduler_type cosine \
    --group_by_modality_length True \
    --logging_steps 10 \
    --save_strategy no \
    --model_max_length 1024 \
    --dataloader_num_workers 1 \
    --lazy_preprocess True \
    --report_to none \
    "$@"
