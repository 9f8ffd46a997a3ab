"""Bad samples of training data: raised as errors, or skipped, counted and listed in a file."""

import fcntl
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from mgm.errors import MGMError, one_line

RAISE, SKIP = "raise", "skip"
BAD_SAMPLE_POLICIES = (RAISE, SKIP)
BAD_SAMPLES_FILE = "quarantine.jsonl"
BROKEN_IMAGE = "broken image"
MISSING_IMAGE = "missing image"


@dataclass(frozen=True)
class BadSample:
    """An unusable sample.

    Attributes:
        file: data file, or shard of a stream.
        sample: its index in the file.
        kind: kind of problem, one of `mgm.data.doctor.checks.FINDING_KINDS`.
        reason: error message, which names file, sample and problem.
    """

    file: str
    sample: int
    kind: str
    reason: str


def bad_sample(file: object, sample: int, error: MGMError) -> BadSample:
    """The `BadSample` of an error; an error without a `kind` is that of an image."""
    return BadSample(str(file), sample, getattr(error, "kind", BROKEN_IMAGE), str(error))


def count_kinds(bad: Sequence[BadSample]) -> str:
    """The number of samples of each kind as text, such as "3 broken image, 1 malformed"."""
    counts = Counter(entry.kind for entry in bad)
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())


def nothing_usable(source: object, bad: Sequence[BadSample]) -> MGMError:
    """The error for data without usable samples: counts by kind, and the first bad sample."""
    first = min(bad, key=lambda entry: (entry.file, entry.sample)).reason
    return MGMError(
        f"{source}: no usable samples ({count_kinds(bad)}); fix them; first error: {first}"
    )


class BadSamples:
    """The list of skipped samples of a run: a JSONL file shared by all processes.

    Each sample is listed once, although every epoch, evaluation, process and resumed run may find
    it again.

    Args:
        file: JSONL file with the fields of `BadSample` in each line.
        lists_data_files: whether this process lists the bad samples that every process finds when
            it opens the data; true for one process.
        deferred: whether the file is neither read nor written before `open_file`, because until
            then it may belong to an earlier run.
    """

    def __init__(self, file: Path, lists_data_files: bool = True, deferred: bool = False) -> None:
        self.file = file
        self.lists_data_files = lists_data_files
        self._deferred = deferred
        self._listed: dict[tuple[str, int], BadSample] = {}  # read or added so far
        self._offset = 0  # bytes of the file read so far

    def open_file(self) -> None:
        """Write the samples added so far; later additions are written at once.

        Raises:
            MGMError: the file cannot be written.
        """
        if not self._deferred:
            return
        added, self._listed, self._deferred = [*self._listed.values()], {}, False
        if added:
            self.add(*added)

    def add(self, *bad: BadSample) -> None:
        """List samples that are not listed yet.

        Raises:
            MGMError: the file cannot be written.
        """
        if self._deferred:
            for entry in bad:
                self._listed.setdefault((entry.file, entry.sample), entry)
            return
        try:
            with self.file.open("a+b") as content:
                fcntl.flock(content, fcntl.LOCK_EX)  # the lock is held until the file is closed
                self._read(content)
                new = {(entry.file, entry.sample): entry for entry in reversed(bad)}
                lines = [
                    json.dumps(asdict(entry), ensure_ascii=False) + "\n"
                    for key, entry in reversed(new.items())
                    if key not in self._listed
                ]
                content.write("".join(lines).encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise MGMError(
                f"{self.file}: cannot be written ({one_line(error.strerror or error)}); check the "
                "permissions of the folder and free disk space"
            ) from error

    def entries(self, files: Iterable[str] | None = None) -> list[BadSample]:
        """All bad samples listed so far by any process.

        Args:
            files: only those of these data files; None: of all.
        """
        if not self._deferred and self.file.exists():
            with self.file.open("rb") as content:
                self._read(content)
        selected = None if files is None else set(files)
        listed = self._listed.values()
        return [entry for entry in listed if selected is None or entry.file in selected]

    def _read(self, content: BinaryIO) -> None:
        """Read the lines that were added since the last call."""
        content.seek(self._offset)
        for line in content:
            try:
                entry = BadSample(**json.loads(line))
            except (ValueError, TypeError):  # an incomplete line
                continue
            self._listed.setdefault((entry.file, entry.sample), entry)
        self._offset = content.tell()
