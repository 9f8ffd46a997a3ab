"""SHA-256 of a file: of all its bytes, or of its size and sampled blocks."""

import hashlib
import os
from pathlib import Path

import numpy as np

READ_SIZE = 4 * 2**20  # bytes per read
NUM_BLOCKS, BLOCK_SIZE = 256, 64 * 2**10  # sampled blocks of a large file, and bytes of each


def file_digest(file: Path, whole: bool = False) -> bytes:
    """SHA-256 of a file's content.

    Args:
        file: a local file.
        whole: whether to read every byte of a file over 16 MiB; otherwise its size and evenly
            spaced blocks are digested, the first and the last bytes included.

    Raises:
        OSError: it cannot be read.
    """
    digest, size = hashlib.sha256(), file.stat().st_size
    with file.open("rb", buffering=0) as content:
        if whole or size <= NUM_BLOCKS * BLOCK_SIZE:
            while chunk := content.read(READ_SIZE):
                digest.update(chunk)
            return digest.digest()
        digest.update(str(size).encode())
        for start in np.linspace(0, size - BLOCK_SIZE, NUM_BLOCKS).astype(np.int64).tolist():
            content.seek(start, os.SEEK_SET)
            digest.update(content.read(BLOCK_SIZE))
    return digest.digest()
