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
    """A sample that cannot be used.

    Attributes:
        file: data file, or shard of a stream.
        sample: its index in the file.
        kind: what is wrong, as the data doctor names it (`mgm.data.doctor.checks.FINDING_KINDS`).
        reason: the error, which names file, sample and what was found.
    """

    file: str
    sample: int
    kind: str
    reason: str


def bad_sample(file: object, sample: int, error: MGMError) -> BadSample:
    """What an error says of a sample; an error without a `kind` is one of its images."""
    return BadSample(str(file), sample, getattr(error, "kind", BROKEN_IMAGE), str(error))


def count_kinds(bad: Sequence[BadSample]) -> str:
    """How many there are of each kind, such as "3 broken image, 1 malformed"."""
    counts = Counter(entry.kind for entry in bad)
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())


def nothing_usable(source: object, bad: Sequence[BadSample]) -> MGMError:
    """The error of data whose samples are all bad: counts by kind, and the first of them."""
    first = min(bad, key=lambda entry: (entry.file, entry.sample)).reason
    return MGMError(
        f"{source}: no usable samples ({count_kinds(bad)}); fix them; the first: {first}"
    )


class BadSamples:
    """The list of samples that a run skips: a file that all processes of the run share.

    A sample is listed once, however often and by whichever process it is found: every epoch,
    evaluation and resumed run finds it again.

    Args:
        file: gets a JSON object for each sample, with the fields of `BadSample`, one a line.
        lists_data_files: whether this process lists what every process finds when it opens the
            data; one of them does.
        deferred: whether the file is neither read nor written before `open_file`: until then it
            may be that of an earlier run.
    """

    def __init__(self, file: Path, lists_data_files: bool = True, deferred: bool = False) -> None:
        self.file = file
        self.lists_data_files = lists_data_files
        self._deferred = deferred
        self._listed: dict[tuple[str, int], BadSample] = {}  # what this process has read or added
        self._offset = 0  # bytes of the file that it has read

    def open_file(self) -> None:
        """Write what was added so far into the file; later additions go there at once.

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
                fcntl.flock(content, fcntl.LOCK_EX)  # until it is closed
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
                f"{self.file}: cannot be written ({one_line(error.strerror or error)}); free some "
                "disk space"
            ) from error

    def entries(self, files: Iterable[str] | None = None) -> list[BadSample]:
        """All that are listed so far, by any process.

        Args:
            files: of which data files; None: of all.
        """
        if not self._deferred and self.file.exists():
            with self.file.open("rb") as content:
                self._read(content)
        selected = None if files is None else set(files)
        listed = self._listed.values()
        return [entry for entry in listed if selected is None or entry.file in selected]

    def _read(self, content: BinaryIO) -> None:
        """Take in the lines that were added since."""
        content.seek(self._offset)
        for line in content:
            try:
                entry = BadSample(**json.loads(line))
            except (ValueError, TypeError):  # a line that was not written as a whole
                continue
            self._listed.setdefault((entry.file, entry.sample), entry)
        self._offset = content.tell()
