# What the published training recipes have in common; each of them sources this file and says what differs.
#
#   bash scripts/llama/train/stage_1_2_full_v7b_336_hr_768.sh [FLAGS] [--stage1 FLAGS] [--stage2 FLAGS]
#
# FLAGS replace those of the recipe, in both stages or in one of them. Beside every flag of `python -m mgm.train`
# there are those of the launcher (`python -m mgm.train.launch --help`): --dry-run shows the command and what it
# would take, --hostfile and --devices say where it runs. Run it where model_zoo/ and data/ are.
#
# STAGE=1 or STAGE=2 runs one stage alone.

set -euo pipefail

scripts=$(realpath --relative-to=. "$(dirname "${BASH_SOURCE[0]}")")

# Flags of the command line, for both stages and for each.
both=() only_1=() only_2=()
target=both
for word in "$@"; do
    case $word in
        --stage1) target=only_1 ;;
        --stage2) target=only_2 ;;
        *) declare -n list=$target && list+=("$word") ;;
    esac
done

common=(
    --vision_tower model_zoo/OpenAI/clip-vit-large-patch14-336
    --vision_tower_aux model_zoo/OpenAI/openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup
    --mm_projector_type mlp2x_gelu
    --mm_vision_select_layer -2
    --mm_use_im_start_end False
    --mm_use_im_patch_token False
    --image_size_aux 768
    --model_max_length 2048
    --bf16 True
    --tf32 True
    --gradient_checkpointing True
    --num_train_epochs 1
    --weight_decay 0.
    --warmup_ratio 0.03
    --lr_scheduler_type cosine
    --logging_steps 1
    --save_strategy steps
    --save_total_limit 1
    --dataloader_num_workers 4
)

# Mining and projector learn from captions; the language model is frozen.
stage_1() {
    local name=$1
    shift
    launch 1 "${common[@]}" \
        --tune_mm_mlp_adapter True \
        --version plain \
        --data_path ./data/MGM-Pretrain/mgm_pretrain.json \
        --image_folder ./data/MGM-Pretrain \
        --output_dir "./work_dirs/$name" \
        --learning_rate 1e-3 \
        --save_steps 24000 \
        --global_batch_size 256 \
        "$@" "${both[@]}" "${only_1[@]}"
}

# The language model learns too, from instructions. The second name is that of stage 1.
stage_2() {
    local name=$1 pretrained=$2
    shift 2
    launch 2 "${common[@]}" \
        --pretrain_mm_mlp_adapter "./work_dirs/$pretrained/mm_projector.bin" \
        --version v1 \
        --data_path ./data/MGM-Finetune/mgm_instruction.json \
        --image_folder ./data/MGM-Finetune \
        --output_dir "./work_dirs/$name" \
        --image_aspect_ratio pad \
        --group_by_modality_length True \
        --learning_rate 2e-5 \
        --save_steps 1000 \
        --global_batch_size 128 \
        "$@" "${both[@]}" "${only_2[@]}"
}

# HD: CLIP sees four crops and the whole image, ConvNeXt 1536 pixels. Stage 1 is that of the model without HD.
hd=(
    --image_size_aux 1536
    --image_grid 2
    --image_global True
    --model_max_length 4096
)

# Published on four machines: the launcher looks for their hostfile before ./hostfile.
four_machines=(--default_hostfile hostfile_4)

launch() {
    local stage=$1
    shift
    if [ "${STAGE:-$stage}" = "$stage" ]; then
        python -m mgm.train.launch "$@"
    fi
}
