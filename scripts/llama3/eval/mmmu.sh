#!/usr/bin/env bash
# Compat: the published command; CKPT names another checkpoint below work_dirs/.
exec bash "$(dirname "$0")/../../eval.sh" mmmu:val "${CKPT:-MGM/MGM-8B-HD}" llama_3 "$@"
