#!/usr/bin/env bash
# MGM-34B-HD: Nous-Hermes-2 on Yi 34B. Published on 4 machines of 8 GPUs.
source "$(dirname "$0")/../../train.sh"

stage_2 MGM-34B-HD MGM-34B-Pretrain "${hd[@]}" "${four_machines[@]}" \
    --model_name_or_path model_zoo/LLM/Nous-Hermes-2-Yi-34B \
    --language_model_config "$scripts/yi/yi-34b.json" \
    --version chatml_direct \
    --deepspeed "$scripts/zero3.json" \
    --per_device_train_batch_size 4 \
    --learning_rate 1e-5 \
    --lr_multi model.mm_projector:2,model.vlm_uni:2
