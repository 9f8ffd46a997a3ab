"""Samples that cannot be used: counted and listed, and never replaced by others."""

import json
from pathlib import Path

import torch

from mgm.errors import MGMError, one_line

STRICT, SKIP = "strict", "skip"
POLICIES = (STRICT, SKIP)
FILE = "quarantine.jsonl"


class Quarantine:
    """The list of samples that a run leaves out; worker processes share it.

    Args:
        file: gets a line for each, `{"sample": place in the data file, "reason": text}`.
        lists: whether this process lists what all of them find while they read the data file.
        begin: whether an earlier list is removed.
    """

    def __init__(self, file: Path, lists: bool = True, begin: bool = True) -> None:
        self.file = file
        self.lists = lists
        self.count = torch.zeros(1, dtype=torch.long).share_memory_()
        if begin and lists:
            file.unlink(missing_ok=True)

    def add(self, sample: int, reason: str) -> None:
        """List a sample.

        Raises:
            MGMError: the file cannot be written.
        """
        self.count += 1
        line = json.dumps({"sample": sample, "reason": one_line(reason)}, ensure_ascii=False)
        try:
            # One write of a short line appends it as a whole, also where several processes do.
            with self.file.open("ab", buffering=0) as file:
                file.write(f"{line}\n".encode())
        except OSError as error:
            raise MGMError(
                f"{self.file}: cannot be written ({one_line(error.strerror or error)}); make room"
            ) from error
