#!/usr/bin/env bash
# Compat: the published command; CKPT names another checkpoint below work_dirs/.
exec bash "$(dirname "$0")/../../eval.sh" mathvista "${CKPT:-MGM/MGM-34B-HD}" chatml_direct "$@"
