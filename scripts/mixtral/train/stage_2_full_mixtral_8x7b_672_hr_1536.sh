#!/usr/bin/env bash
# MGM-8x7B-HD: Mixtral 8x7B Instruct. Published on 4 machines of 8 GPUs.
source "$(dirname "$0")/../../train.sh"

stage_2 MGM-8x7B-HD MGM-8x7B-Pretrain "${hd[@]}" "${four_machines[@]}" \
    --model_name_or_path model_zoo/LLM/mixtral/Mixtral-8x7B-Instruct-v0.1 \
    --language_model_config "$scripts/mixtral/mixtral-8x7b.json" \
    --version mistral_instruct \
    --deepspeed "$scripts/zero3.json" \
    --per_device_train_batch_size 4 \
    --learning_rate 1e-5 \
    --lr_multi model.mm_projector:2,model.vlm_uni:2
