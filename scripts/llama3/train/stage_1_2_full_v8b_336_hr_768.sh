#!/usr/bin/env bash
# MGM-8B: LLaMA-3 8B Instruct. Published on 2 machines of 8 GPUs.
source "$(dirname "$0")/../../train.sh"

model=(
    --model_name_or_path model_zoo/LLM/llama-3/Meta-Llama-3-8B-Instruct
    --language_model_config "$scripts/llama3/llama-3-8b.json"
    --version llama_3
    --deepspeed "$scripts/zero2_offload.json"
)
stage_1 MGM-8B-LLaMA-3-Pretrain "${model[@]}" --per_device_train_batch_size 16
stage_2 MGM-8B-LLaMA-3 MGM-8B-LLaMA-3-Pretrain "${model[@]}" --per_device_train_batch_size 8
