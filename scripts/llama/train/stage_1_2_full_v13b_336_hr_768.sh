#!/usr/bin/env bash
# MGM-13B: Vicuna 13B v1.5. Published on 4 machines of 8 GPUs.
source "$(dirname "$0")/../../train.sh"

model=(
    "${four_machines[@]}"
    --model_name_or_path model_zoo/LLM/vicuna/13B-V1.5
    --language_model_config "$scripts/llama/vicuna-13b.json"
    --deepspeed "$scripts/zero2.json"
)
stage_1 MGM-13B-Pretrain "${model[@]}" --per_device_train_batch_size 8
stage_2 MGM-13B MGM-13B-Pretrain "${model[@]}" --per_device_train_batch_size 4
