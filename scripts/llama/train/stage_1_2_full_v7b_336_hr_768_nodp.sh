#!/usr/bin/env bash
# MGM-7B without drop-path in the ConvNeXt. Published on 2 machines of 8 GPUs.
source "$(dirname "$0")/../../train.sh"

model=(
    --model_name_or_path model_zoo/LLM/vicuna/7B-V1.5
    --language_model_config "$scripts/llama/vicuna-7b.json"
    --deepspeed "$scripts/zero2_offload.json"
    --drop_path False
)
stage_1 MGM-7B-Pretrain "${model[@]}" --per_device_train_batch_size 16
stage_2 MGM-7B MGM-7B-Pretrain "${model[@]}" --per_device_train_batch_size 8
