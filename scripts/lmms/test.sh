#!/usr/bin/env bash
# Runs our model under lmms-eval, in an environment of its own (8 GB).
#
#   bash scripts/lmms/test.sh
#
# MGM_PYTHON names the Python to use, MGM_LMMS_VENV the environment's folder (default .venv-lmms).
set -euo pipefail
cd "$(dirname "$0")/../.."
environment=${MGM_LMMS_VENV:-.venv-lmms}
if [ ! -f "$environment/bin/activate" ]; then
    "${MGM_PYTHON:-python3}" -m venv "$environment"
fi
# shellcheck disable=SC1091
source "$environment/bin/activate"
pip install --quiet --disable-pip-version-check --root-user-action=ignore \
    lmms-eval==0.7.3 torch==2.15.0 torchvision==0.29.2 transformers==5.23.0 timm==1.0.31 \
    accelerate==1.15.0 levenshtein==0.27.1 \
    "filelock<3.25" # newer ones lack what lmms-eval takes from within
pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --editable .
python scripts/lmms/compare.py
python scripts/record.py scripts/lmms lmms-eval torch transformers -- "answers of mgm_local and mgm_rounds"
