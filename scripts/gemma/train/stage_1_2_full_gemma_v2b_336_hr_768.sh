#!/usr/bin/env bash
# MGM-2B: Gemma 2B. Published on one machine of 8 GPUs.
source "$(dirname "$0")/../../train.sh"

model=(
    --model_name_or_path model_zoo/LLM/gemma/gemma-2b-it
    --language_model_config "$scripts/gemma/gemma-2b.json"
    --version gemma
    --per_device_train_batch_size 8
)
stage_1 MGM-2B-Pretrain "${model[@]}" --deepspeed "$scripts/zero2_offload.json"
stage_2 MGM-2B MGM-2B-Pretrain "${model[@]}" --deepspeed "$scripts/zero2.json"
