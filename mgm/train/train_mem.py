"""The published entry point, as in `deepspeed mgm/train/train_mem.py ...`.

Compat: the same as `python -m mgm.train`.
"""

from mgm.train.__main__ import program

if __name__ == "__main__":
    program()
