"""The digest of one file: of all its bytes, or of its size and blocks spread over it."""

import hashlib
import os
from pathlib import Path

import numpy as np

CHUNK = 4 * 2**20  # bytes that are read at once
BLOCKS, BLOCK = 256, 64 * 2**10  # of a file that is not read whole: how many, and their bytes


def file_digest(file: Path, whole: bool = False) -> bytes:
    """SHA-256 of a file's content.

    Args:
        file: a local one.
        whole: whether every byte of a file over 16 MiB counts; otherwise its size and blocks spread
            evenly over it do, its beginning and its end among them.

    Raises:
        OSError: it cannot be read.
    """
    digest, size = hashlib.sha256(), file.stat().st_size
    with file.open("rb", buffering=0) as content:
        if whole or size <= BLOCKS * BLOCK:
            while chunk := content.read(CHUNK):
                digest.update(chunk)
            return digest.digest()
        digest.update(str(size).encode())
        for start in np.linspace(0, size - BLOCK, BLOCKS).astype(np.int64).tolist():
            content.seek(start, os.SEEK_SET)
            digest.update(content.read(BLOCK))
    return digest.digest()
