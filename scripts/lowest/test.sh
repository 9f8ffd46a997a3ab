#!/usr/bin/env bash
# Tests the core (load, generate, the engine, a training step) with the lowest versions that
# pyproject.toml promises, in an environment of its own (5 GB).
#
#   bash scripts/lowest/test.sh [pytest arguments]
#
# MGM_PYTHON names the Python to use, MGM_LOWEST_VENV the environment's folder (default
# .venv-lowest). Beside the base dependencies it has pytest, and peft, which the tests of LoRA
# checkpoints are written with; tests of other optional packages say that they are skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
environment=${MGM_LOWEST_VENV:-.venv-lowest}
if [ ! -f "$environment/bin/activate" ]; then
    "${MGM_PYTHON:-python3.11}" -m venv "$environment"
fi
# shellcheck disable=SC1091
source "$environment/bin/activate"
pip install --quiet --disable-pip-version-check --root-user-action=ignore \
    --constraint constraints-lowest.txt --editable . pytest peft

export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
records=$(mktemp)
trap 'rm -f "$records"' EXIT
status=0
python -m pytest -rs --junit-xml "$records" tests/model tests/data tests/engine \
    tests/train/args tests/train/test_stages.py tests/train/optim tests/test_bounds.py "$@" || status=$?
python -m scripts.lowest.report "$records"
exit "$status"
