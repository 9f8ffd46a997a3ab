"""Data doctor: checks training data before a run.

    python -m mgm.data.doctor data.json --image-folder images [--model FOLDER] [--fix clean.json]

The data file is any --data_path of training except URLs; the files of a mixture or of a pattern are
checked one by one. Finds malformed samples, image files that are missing, broken or duplicates,
and, with a model, samples longer than its limit. The exit status is 1 if a sample is unusable.
"""

import argparse
import base64
import errno
import json
import statistics
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mgm.atomic import atomic_file
from mgm.data.doctor.checks import FINDING_KINDS, USABLE, Examination, clean_indices, examine
from mgm.data.doctor.records import DataRecords, open_records, sources_of
from mgm.data.doctor.sample_html import sample_page
from mgm.data.images.loading import file_fault, image_file
from mgm.data.sources.formats.record import parse_sample
from mgm.data.sources.mixture_config import MixtureSource
from mgm.data.sources.sample import SampleError
from mgm.data.text.templates import get_template, version_template
from mgm.errors import MGMError, Parser, one_line, run_command, write_output

if TYPE_CHECKING:
    from mgm.data.processing_mgm import MGMProcessor

MAX_SHOWN_FINDINGS = 3  # findings of a kind; the report has all of them


def main(words: Sequence[str] | None = None) -> int:
    """Check the data files and write all requested outputs; returns the exit status."""
    options = parse(words)
    sources = sources_of(options.file, options.data_config, options.data_split)
    single = [
        name for name in ("fix", "render_sample", "plot") if getattr(options, name) is not None
    ]
    if len(sources) > 1 and single:
        raise MGMError(
            f"--{single[0].replace('_', '-')}: {options.file} names {len(sources)} data files; "
            "give one of them"
        )
    processor = None if options.model is None else _load_processor(options)
    examinations = [_examined(source, options, processor) for source in sources]
    if options.report is not None:
        reports = [report(examination) for examination in examinations]
        several = {"file": str(options.file), "sources": reports}
        _write_json(options.report, reports[0] if len(reports) == 1 else several)
    return int(any(examination.unusable for examination in examinations))


def _load_processor(options: argparse.Namespace) -> "MGMProcessor":
    """The processor of --model, with the conversation template of --version."""
    from mgm.data.processing_mgm import MGMProcessor

    processor = MGMProcessor.from_pretrained(options.model)
    if options.version is not None:
        processor.conversation = version_template(options.version)
    return processor


def _examined(
    source: MixtureSource, options: argparse.Namespace, processor: "MGMProcessor | None"
) -> Examination:
    """Check one data file and write its outputs, except the report."""
    rows = open_records(source)
    fix: Path | None = options.fix
    if fix is not None and fix.suffix.lower() not in rows.endings:
        raise MGMError(f"--fix {fix}: the copy ends in {' or '.join(rows.endings)}")
    file = Path(source.path)
    folder: Path = source.image_folder or options.image_folder or file.parent  # as in training
    examination = examine(
        *(file, rows.records(), partial(_content, rows, folder), processor),
        *(options.model_max_length, options.workers, _bar),
    )
    write_output(summary(examination))
    if options.plot is not None:
        from mgm.data.doctor.plot import plot_examination

        plot_examination(examination, options.plot)
    if options.render_sample is not None and processor is not None:
        _write_page(options, rows, examination.samples, folder, processor)
    if fix is not None:
        kept = clean_indices(examination)
        with atomic_file(fix) as part:
            rows.write(kept, part)
        write_output(f"{fix}: {len(kept)} of {examination.samples} samples\n")
    return examination


def _content(rows: DataRecords, folder: Path, index: int, number: int) -> bytes:
    """The encoded bytes of an image of a sample."""
    sample = parse_sample(rows.record(index), f"sample {index}")
    source = sample.image_sources(folder)[number]
    if not isinstance(source, Path):
        return image_file(source, "URL")[0]
    if fault := file_fault(source):
        raise FileNotFoundError(errno.ENOENT, fault, f"{source!s:.200}")
    return source.read_bytes()


def _address(source: Path | str | bytes) -> str:
    """The `src` of an image in HTML: a file URL, an http(s) URL, or a data URL."""
    if isinstance(source, bytes):
        return f"data:image;base64,{base64.b64encode(source).decode()}"
    return source if isinstance(source, str) else source.absolute().as_uri()


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line.

    Raises:
        MGMError: an option is invalid.
    """
    parser = Parser(prog="python -m mgm.data.doctor", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="--data_path of training: JSON, JSONL, a tar or a "
        "pattern of tars, a mixture, a parquet file, a folder of these, or a data set's folder or "
        "name on the hub")  # fmt: skip
    add("--data-config", metavar="NAME", help="configuration of a data set on the hub")
    add("--data-split", default="train", metavar="NAME", help="split of a data set; default: train")
    add("--image-folder", type=Path, metavar="DIR", help="folder of images; default: that of FILE")
    add(
        "--model",
        metavar="FOLDER",
        help="compute lengths with this model's processor",
    )
    add("--version", metavar="NAME", help="conversation template; default: the model's own")
    add("--model-max-length", type=int, metavar="N", help="maximum tokens of a sample")
    add("--report", type=Path, metavar="FILE", help="write all findings and statistics as JSON")
    add("--plot", type=Path, metavar="FILE", help="plot lengths and image sizes as PNG")
    add(
        "--render-sample",
        type=int,
        metavar="N",
        help="write sample N as HTML, supervised tokens in colour",
    )
    add(
        "--html",
        type=Path,
        default=Path("sample.html"),
        metavar="FILE",
        help="output of --render-sample; default: sample.html",
    )
    add("--fix", type=Path, metavar="FILE", help="write a copy with the usable samples only")
    add("--workers", type=int, default=8, metavar="N", help="threads that read images; default: 8")
    options = parser.parse_args(words)
    needing = [
        name
        for name in ("model_max_length", "version", "render_sample")
        if getattr(options, name) is not None
    ]
    if needing and options.model is None:
        raise MGMError(f"--{needing[0].replace('_', '-')} needs --model, whose tokenizer is used")
    if options.workers < 1:
        raise MGMError(f"--workers {options.workers}: give a number from 1")
    if options.fix is not None and options.fix.resolve() == options.file.resolve():
        raise MGMError("--fix names the file itself; give another, the original stays")
    return options


def summary(examination: Examination) -> str:
    """The summary as text, for the terminal."""
    counts = examination.counts
    unusable = len(examination.unusable)
    lines = [
        f"{examination.file}: {examination.samples:,} samples, "
        f"{sum(n * count for n, count in examination.images.items()):,} references to "
        f"{len(examination.sizes):,} images that can be read"
    ]
    for kind, meaning in FINDING_KINDS.items():
        if not counts[kind]:
            continue
        mark = "note " if kind in USABLE else "fault"
        lines.append(f"{mark} {counts[kind]:>7,} x {kind}: a sample {meaning}")
        findings = [finding for finding in examination.findings if finding.kind == kind]
        for finding in findings[:MAX_SHOWN_FINDINGS]:
            lines.append(f"          {finding.sample}: {one_line(finding.text)}")
    if examination.lengths:
        lines.append(f"positions: {_spread(examination.lengths)}")
        lines.append(f"learned of them: {_spread(examination.supervised)}")
    if examination.sizes:
        sides = [max(size) for size in examination.sizes.values()]
        lines.append(f"longer side of images, pixels: {_spread(sides)}")
    lines.append(
        f"{unusable:,} samples cannot be used; leave them out with --fix, or with "
        "--on_bad_sample skip in training"
        if unusable
        else "all samples can be used"
    )
    return "\n".join(lines) + "\n"


def report(examination: Examination) -> dict[str, Any]:
    """The report as JSON."""
    return {
        "file": str(examination.file),
        "samples": examination.samples,
        "usable": examination.samples - len(examination.unusable),
        "counts": {kind: examination.counts[kind] for kind in FINDING_KINDS},
        "images_per_sample": {str(n): count for n, count in sorted(examination.images.items())},
        "images": len(examination.sizes),
        "positions": _figures(examination.lengths),
        "learned": _figures(examination.supervised),
        "max_length": examination.max_length,
        "findings": [vars(finding) for finding in examination.findings],
    }


def _spread(values: Sequence[int]) -> str:
    figures = _figures(values)
    return (
        f"{figures['mean']:,.0f} on average, half {figures['median']:,.0f} or less, 95 % "
        f"{figures['percentile_95']:,} or less, at most {figures['max']:,}"
    )


def _figures(values: Sequence[int]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    return {
        "sum": sum(ordered),
        "mean": statistics.fmean(ordered),
        "median": statistics.median(ordered),
        "percentile_95": ordered[int(0.95 * (len(ordered) - 1))],
        "max": ordered[-1],
    }


def _bar(items: Iterable[Any]) -> Iterable[Any]:
    return tqdm(items, unit="", leave=False)


def _write_page(
    options: argparse.Namespace,
    rows: DataRecords,
    count: int,
    folder: Path,
    processor: "MGMProcessor",
) -> None:
    if not 0 <= options.render_sample < count:
        raise MGMError(
            f"--render-sample {options.render_sample}: {options.file} has samples 0 to {count - 1}"
        )
    try:
        sample = parse_sample(rows.record(options.render_sample), f"sample {options.render_sample}")
    except SampleError as fault:
        raise MGMError(f"--render-sample {options.render_sample}: {fault}") from fault
    template = get_template(processor.conversation, processor.wrap_images)
    addresses = [_address(source) for source in sample.image_sources(folder)]
    title = f"{options.file.name}: sample {options.render_sample}"
    with atomic_file(options.html) as part:
        part.write_text(
            sample_page(sample, template, processor, addresses, title),
            encoding="utf-8",
            errors="backslashreplace",  # a path may contain bytes that are not UTF-8
        )
    write_output(f"{options.html}: sample {options.render_sample}\n")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_file(path) as part:
        text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        # A path may contain bytes that are not UTF-8.
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


if __name__ == "__main__":
    run_command(main)
