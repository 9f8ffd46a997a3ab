#!/usr/bin/env bash
# MGM-7B-HD: Vicuna 7B v1.5. Published on 4 machines of 8 GPUs.
source "$(dirname "$0")/../../train.sh"

stage_2 MGM-7B-HD MGM-7B-Pretrain "${hd[@]}" "${four_machines[@]}" \
    --model_name_or_path model_zoo/LLM/vicuna/7B-V1.5 \
    --language_model_config "$scripts/llama/vicuna-7b.json" \
    --deepspeed "$scripts/zero2.json" \
    --per_device_train_batch_size 4
