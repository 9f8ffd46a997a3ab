#!/usr/bin/env bash
# MGM-2B-HD: Gemma 2B. Published on 4 machines of 8 GPUs.
source "$(dirname "$0")/../../train.sh"

stage_2 MGM-2B-HD MGM-2B-Pretrain "${hd[@]}" "${four_machines[@]}" \
    --model_name_or_path model_zoo/LLM/gemma/gemma-2b-it \
    --language_model_config "$scripts/gemma/gemma-2b.json" \
    --version gemma \
    --deepspeed "$scripts/zero2.json" \
    --per_device_train_batch_size 4 \
    --save_steps 20000
