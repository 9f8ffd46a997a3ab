#!/usr/bin/env bash
# Compat: the published command; CKPT names another checkpoint below work_dirs/.
exec bash "$(dirname "$0")/../../eval.sh" mmvet "${CKPT:-MGM/MGM-8x7B-HD}" mistral_instruct "$@"
