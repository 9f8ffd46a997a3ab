#!/usr/bin/env bash
# Stage 1 of the nano model, alignment: captions, and only the projector and the mining are trained.
#
#   bash scripts/nano/train/stage_1.sh [any flag of python -m mgm.train]
set -euo pipefail
cd "$(dirname "$0")/../../.."

python -m mgm.train \
    --model_name_or_path playground/model_zoo/llama-nano \
    --version nano \
    --data_path playground/data/train/captions.json \
    --image_folder playground/data/train/images \
    --vision_tower playground/model_zoo/clip-vit-nano-patch14-168 \
    --vision_tower_aux playground/model_zoo/convnext-nano-384 \
    --image_size_aux 384 \
    --image_aspect_ratio pad \
    --mm_projector_type mlp2x_gelu \
    --tune_mm_mlp_adapter True \
    --mm_vision_select_layer -2 \
    --mm_use_im_start_end False \
    --mm_use_im_patch_token False \
    --bf16 True \
    --output_dir work_dirs/nano/stage_1 \
    --num_train_epochs 1 \
    --per_device_train_batch_size 32 \
    --optim adamw_torch_fused \
    --learning_rate 2e-3 \
    --weight_decay 0. \
    --warmup_ratio 0.03 \
    --lr_scheduler_type cosine \
    --logging_steps 10 \
    --save_strategy no \
    --model_max_length 1024 \
    --dataloader_num_workers 1 \
    --lazy_preprocess True \
    --report_to none \
    "$@"
