"""Checks of a data file: malformed samples, missing or broken images, lengths, duplicates."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgm.data.images.loading import open_image
from mgm.data.images.orientation import STORED
from mgm.data.sources.formats.record import parse_sample
from mgm.data.sources.sample import Sample, SampleError
from mgm.data.text.templates import get_template
from mgm.errors import MGMError
from mgm.model.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from mgm.data.processing_mgm import MGMProcessor

ImageReader = Callable[[int, int], bytes]  # arguments: index of a sample, and of an image in it
ProgressBar = Callable[[Iterable[Any]], Iterable[Any]]  # wraps an iterable, as tqdm does

# Kinds of findings; samples with a kind in `USABLE` can be trained on.
FINDING_KINDS = {
    "malformed": "is not a conversation in a supported format",
    "unsupported": "has content that training cannot use and must not ignore",
    "roles": "has messages whose roles do not alternate",
    "no answer": "has no answer to learn",
    "markers": "has another number of image markers than images",
    "missing image": "names an image file that is not there",
    "broken image": "names an image that cannot be decoded",
    "empty answer": "has an answer without text",
    "too long": "is longer than the limit, and is cut",
    "cut image": "loses an image to the limit",
    "duplicate image": "has an image whose bytes another file has too",
}
USABLE = ("empty answer", "too long", "cut image", "duplicate image")


@dataclass(frozen=True)
class Finding:
    """A problem of one sample.

    Attributes:
        sample: its index in the file.
        kind: one of `FINDING_KINDS`.
        text: details.
    """

    sample: int
    kind: str
    text: str


@dataclass
class Examination:
    """Findings and statistics of a data file.

    Attributes:
        file: the data file.
        samples: number of samples.
        findings: problems, in the order of samples.
        images: number of samples by their number of images.
        sizes: width and height in pixels of every image file that could be decoded.
        lengths: tokens of each usable sample, image tokens included; empty without a model.
        supervised: supervised tokens of each usable sample; empty without a model.
        max_length: maximum tokens of a sample; None: no limit.
    """

    file: Path
    samples: int
    findings: list[Finding] = field(default_factory=list)
    images: Counter[int] = field(default_factory=Counter)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    supervised: list[int] = field(default_factory=list)
    max_length: int | None = None

    @property
    def counts(self) -> Counter[str]:
        """Number of samples with a finding, by kind."""
        pairs = {(finding.sample, finding.kind) for finding in self.findings}
        return Counter(kind for _, kind in pairs)

    @property
    def unusable(self) -> set[int]:
        """Indices of samples that training cannot use."""
        return {finding.sample for finding in self.findings if finding.kind not in USABLE}


def examine(
    file: Path,
    records: Iterable[Any],
    read: ImageReader,
    processor: "MGMProcessor | None" = None,
    max_length: int | None = None,
    workers: int = 8,
    progress: ProgressBar = iter,
) -> Examination:
    """Check a data file and all images that it refers to.

    Args:
        file: the data file.
        records: its records, in any format that `parse_sample` reads.
        read: returns the bytes of an image; raises FileNotFoundError with the reason, another
            OSError, or MGMError.
        processor: processor of the model to train, for lengths; None: lengths are not computed.
        max_length: maximum tokens of a sample, image tokens included.
        workers: threads that read images.
        progress: wraps an iterable with a progress bar, as tqdm does.
    """
    result = Examination(file, 0, max_length=max_length)
    samples: dict[int, Sample] = {}
    users: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)  # samples of each image
    for index, record in enumerate(records):
        result.samples = index + 1
        try:
            sample = parse_sample(record, f"sample {index}")
        except SampleError as fault:
            result.findings.append(Finding(index, fault.kind, str(fault)))
            continue
        result.images[len(sample.images)] += 1
        # Images embedded in the data file are read again when they are decoded.
        names = tuple(
            image if isinstance(image, str) else f"sample {index}, image {number + 1}"
            for number, image in enumerate(sample.images)
        )
        samples[index] = replace(sample, images=names)
        for name in dict.fromkeys(names):
            users[name].append((index, names.index(name)))
    _examine_images(users, read, workers, progress, result)
    unusable = result.unusable
    template = get_template(processor.conversation, processor.wrap_images) if processor else None
    for index, sample in progress(list(samples.items())):
        if not all((answer or "x").strip() for _, answer in sample.turns):
            result.findings.append(Finding(index, "empty answer", "an answer has no text"))
        if processor is not None and template is not None and index not in unusable:
            ids, labels = processor.encode_segments(sample.segments(template))
            result.lengths.append(len(ids))
            result.supervised.append(sum(label != IGNORE_INDEX for label in labels))
            _check_length(index, ids, processor, result)
    order = list(FINDING_KINDS)
    result.findings.sort(key=lambda finding: (finding.sample, order.index(finding.kind)))
    return result


def _examine_images(
    users: dict[str, list[tuple[int, int]]],
    read: ImageReader,
    workers: int,
    progress: ProgressBar,
    result: Examination,
) -> None:
    """Read and decode every file once."""
    first: dict[str, str] = {}  # image by the hash of its content
    with ThreadPoolExecutor(workers) as pool:
        looked = pool.map(partial(_look_at, read), users.items())
        for name, (kind, text, size) in zip(progress(list(users)), looked, strict=True):
            if size is not None:
                result.sizes[name] = size
                other = first.setdefault(text, name)
                kind, text = "duplicate image", f"{name} has the same bytes as {other}"
                if other == name:
                    continue
            result.findings += [Finding(index, kind, text) for index, _ in users[name]]


def _look_at(
    read: ImageReader, image: tuple[str, list[tuple[int, int]]]
) -> tuple[str, str, tuple[int, int] | None]:
    """Decode an image: kind and text of a finding, or hash of the content, and size in pixels."""
    name, ((index, number), *_) = image
    try:
        content = read(index, number)
        size = open_image(content, name, STORED).size
    except FileNotFoundError as fault:
        return "missing image", f"{fault.filename}: {fault.strerror}", None
    except (MGMError, OSError) as fault:
        return "broken image", str(fault), None
    return "", hashlib.sha256(content).hexdigest(), size


def _check_length(
    index: int, ids: list[int], processor: "MGMProcessor", result: Examination
) -> None:
    """Report the truncation of a sample that exceeds the limit, as done by `Collator`."""
    limit = result.max_length
    if limit is None or len(ids) <= limit:
        return
    text = f"{len(ids)} positions, {len(ids) - limit} over the limit"
    result.findings.append(Finding(index, "too long", text))
    span = processor.image_tokens_per_image
    starts = [at for at, token in enumerate(ids) if token == processor.image_token_id][::span]
    lost = sum(start + span > limit for start in starts)
    if lost:
        text = f"{lost} of {len(starts)} images do not fit, nor what follows them"
        result.findings.append(Finding(index, "cut image", text))


def clean_indices(examination: Examination) -> list[int]:
    """Indices of usable samples, without those that have an empty answer."""
    findings = examination.findings
    left_out = {finding.sample for finding in findings if finding.kind == "empty answer"}
    left_out |= examination.unusable
    return [index for index in range(examination.samples) if index not in left_out]
