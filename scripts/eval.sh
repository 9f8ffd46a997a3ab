#!/usr/bin/env bash
# Shared by all evaluation scripts: runs a benchmark, and copies answers files to the published paths.
#
#   bash scripts/eval.sh BENCHMARK[:SPLIT] CHECKPOINT TEMPLATE [arguments of mgm.eval]
#
# CHECKPOINT lies below work_dirs/. Several GPUs run data-parallel.
set -euo pipefail
benchmark=$1 checkpoint=$2 template=$3
shift 3
name=${benchmark%%:*}
output=work_dirs/eval/$checkpoint
data=data/MGM-Eval

gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
program=(python -m mgm.eval)
if [ "$gpus" -gt 1 ]; then
    program=(python -m torch.distributed.run --standalone "--nproc_per_node=$gpus" --module mgm.eval)
fi
"${program[@]}" --model-path "work_dirs/$checkpoint" --conv-mode "$template" \
    --benchmark "$benchmark" --data-dir "$data" --output-dir "$output" "$@"

# Compat: the published paths.
put() {
    mkdir -p "$(dirname "$2")"
    cp "$1" "$2"
}
for folder in "$output/$name"/*/paper; do
    split=$(basename "$(dirname "$folder")")
    case $name in
    textvqa) put "$folder/merge.jsonl" "work_dirs/textvqa/answers/$checkpoint/merge.jsonl" ;;
    mmbench)
        for file in "$folder"/mmbench_*.jsonl; do
            table=$(basename "$file" .jsonl)
            put "$file" "$data/mmbench/answers/$table/$checkpoint.jsonl"
            put "$folder/$table.xlsx" "$data/mmbench/answers_upload/$table/$checkpoint.xlsx"
        done
        ;;
    mme)
        put "$folder/answers.jsonl" "$data/MME/answers/$checkpoint.jsonl"
        for file in "$folder"/eval_tool/*.txt; do
            put "$file" "$data/MME/eval_tool/answers/$checkpoint/$(basename "$file")"
        done
        ;;
    mmvet)
        put "$folder/merge.jsonl" "$data/mm-vet/answers/$checkpoint/merge.jsonl"
        put "$folder/mm-vet.json" "$data/mm-vet/results/$checkpoint/$checkpoint.json"
        ;;
    mmmu)
        put "$folder/merge.jsonl" "work_dirs/MMMU/answers/$checkpoint/merge.jsonl"
        put "$folder/score.json" "work_dirs/MMMU/$checkpoint/$split.json"
        ;;
    mathvista)
        put "$folder/merge.jsonl" "$data/MathVista/answers/$checkpoint/merge.jsonl"
        put "$folder/score.json" "$data/MathVista/answers/$checkpoint/score.jsonl"
        ;;
    esac
done
