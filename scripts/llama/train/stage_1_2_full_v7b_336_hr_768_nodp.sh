#!/usr/bin/env bash
# MGM-7B without drop-path in the ConvNeXt. Published on 2 machines of 8 GPUs.
exec bash "$(dirname "$0")/stage_1_2_full_v7b_336_hr_768.sh" --drop_path False "$@"
