"""The published entry point, as in `deepspeed mgm/train/train_mem.py ...`.

Compat: the same as `python -m mgm.train`.
"""

from mgm.errors import run_command
from mgm.train.__main__ import main

if __name__ == "__main__":
    run_command(main)
