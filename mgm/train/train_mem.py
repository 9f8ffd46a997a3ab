"""The published entry point, as in `deepspeed mgm/train/train_mem.py ...`.

Compat: the same as `python -m mgm.train`.
"""

from mgm.train.__main__ import run_entry_point

if __name__ == "__main__":
    run_entry_point()
