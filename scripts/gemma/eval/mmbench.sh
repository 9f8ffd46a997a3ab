#!/usr/bin/env bash
# Compat: the published command; CKPT names another checkpoint below work_dirs/.
exec bash "$(dirname "$0")/../../eval.sh" mmbench:dev "${CKPT:-MGM/MGM-2B}" gemma "$@"
