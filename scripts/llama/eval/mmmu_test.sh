#!/usr/bin/env bash
# Compat: the published command; CKPT names another checkpoint below work_dirs/.
exec bash "$(dirname "$0")/../../eval.sh" mmmu:test "${CKPT:-MGM/MGM-7B-HD}" vicuna_v1 "$@"
