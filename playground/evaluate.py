"""Exact-match accuracy of nano models on held-out questions, by scene kind and by text height.

    python -m playground.evaluate --data DIR --model NAME=PATH [--model NAME=PATH ...] --out DIR

Writes answers.jsonl (every question with every model's answer), results.json ([right, total] for
each row of the table and for each kind of question), accuracy.png and, last, accuracy.txt.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tqdm import tqdm

import mgm
from mgm.atomic import atomic_file, write_errors
from mgm.data.sources.json.json_file import read_samples
from mgm.data.text.templates import IMAGE_MARKER
from mgm.errors import MGMError, Parser, run_command
from playground.arguments import count
from playground.cap_heights import HEIGHT_BINS
from playground.scenes.qa import SHORT_SUFFIX


@dataclass(frozen=True)
class Question:
    """One turn of a drawn conversation, as a separate question.

    Attributes:
        kind: kind of scene and of question, as in "receipt/price".
    """

    images: tuple[str, ...]
    text: str
    answer: str
    kind: str
    text_height: float | None


def read_questions(folder: Path, limit: int | None) -> list[Question]:
    """Read every turn of the first `limit` conversations of DIR/conversations.json.

    Raises:
        MGMError: the file is missing or was not written by `playground.generate`.
    """
    path = folder / "conversations.json"
    if not path.is_file():
        raise MGMError(f"{path}: no such file; draw it with python -m playground.generate")
    samples = list(read_samples(path).values())[:limit]
    records = json.loads(path.read_text(encoding="utf-8-sig"))
    questions = []
    for index, sample in enumerate(samples):
        notes = [records[index].get(name) for name in ("kinds", "text_heights")]
        if any(not isinstance(n, list) or len(n) != len(sample.turns) for n in notes):
            raise MGMError(
                f"{path}: sample {index}: has no kind and text height for each question; draw it "
                "with python -m playground.generate"
            )
        images = tuple(map(str, sample.image_sources(folder / "images")))
        # A conversation has the suffix for short answers once; separate questions each need it.
        suffix = SHORT_SUFFIX if sample.turns[0][0].endswith(SHORT_SUFFIX) else ""
        for (question, answer), kind, height in zip(sample.turns, *notes, strict=True):
            text = question.replace(IMAGE_MARKER, "").removesuffix(suffix).strip() + suffix
            questions.append(Question(images, text, answer or "", kind, height))
    return questions


def generate_answers(model_path: str, questions: list[Question], batch_size: int) -> list[str]:
    """Generate the model's greedy answers, in the order of the questions."""
    engine = mgm.load(model_path)
    answers = []
    with tqdm(total=len(questions), desc=Path(model_path).name, unit="question") as bar:
        for start in range(0, len(questions), batch_size):
            batch = questions[start : start + batch_size]
            requests = [
                mgm.Request(q.text, images=q.images, max_new_tokens=64, temperature=0.0)
                for q in batch
            ]
            answers += [answer.text.strip() for answer in engine.answer(requests)]
            bar.update(len(batch))
    return answers


def counts_by_group(
    questions: list[Question], answers: list[str], group: Callable[[Question], str | None]
) -> dict[str, tuple[int, int]]:
    """Count (right, total) per group; questions whose `group` is None are skipped."""
    counts: dict[str, tuple[int, int]] = {}
    for question, answer in zip(questions, answers, strict=True):
        name = group(question)
        if name is not None:
            right, total = counts.get(name, (0, 0))
            counts[name] = (right + (answer == question.answer), total + 1)
    return dict(sorted(counts.items()))


def height_group(question: Question) -> str | None:
    """Row of the table for a question's text height; None if nothing has to be read."""
    if question.text_height is None:
        return None
    for low, high in HEIGHT_BINS:
        if question.text_height < high:
            return f"text {low:>2}-{high} px"
    return f"text {low}-{high} px"


GROUPS: tuple[Callable[[Question], str | None], ...] = (
    lambda question: question.kind.partition("/")[0],
    height_group,
    lambda question: "all",
)


def table(results: dict[str, dict[str, tuple[int, int]]]) -> str:
    """Format a plain-text table: a row for each group, a column for each model."""
    names = list(results)
    rows = list(results[names[0]])
    lines = [f"{'exact match, %':<24}{'total':>7}" + "".join(f"{name:>18}" for name in names)]
    first_height = next((row for row in rows if row.startswith("text ")), None)
    for row in rows:
        if row in (first_height, "all"):
            lines.append("-" * len(lines[0]))
        total = results[names[0]][row][1]
        cells = "".join(f"{100 * results[n][row][0] / total:>18.1f}" for n in names)
        lines.append(f"{row:<24}{total:>7}{cells}")
    return "\n".join(lines)


def plot(results: dict[str, dict[str, tuple[int, int]]], path: Path) -> None:
    """Plot two bar charts: accuracy by kind of scene, and by text height."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = list(next(iter(results.values())))
    heights = [row for row in rows if row.startswith("text ")]
    kinds = [row for row in rows if row not in heights]
    figure, axes = plt.subplots(
        1, 2, figsize=(13, 4.5), width_ratios=[len(kinds) + 1, len(heights) + 1], sharey=True
    )
    width = 0.8 / len(results)
    titles = ("By kind of question", "By cap height of the text, pixels of 256")
    for axis, names, title in zip(axes, (kinds, heights), titles, strict=True):
        for index, (model, counts) in enumerate(results.items()):
            values = [100 * counts[n][0] / counts[n][1] for n in names]
            positions = [i + (index - (len(results) - 1) / 2) * width for i in range(len(names))]
            axis.bar(positions, values, width, label=model)
        labels = [
            name.removeprefix("text ").removesuffix(" px").replace("_", " ") for name in names
        ]
        axis.set_xticks(range(len(names)), labels, rotation=35, ha="right")
        axis.set_title(title)
        axis.set_ylim(0, 100)
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("exact match on held-out images, %")
    axes[1].legend()
    figure.tight_layout()
    with atomic_file(path) as part:
        figure.savefig(part, format="png", dpi=110)


def model_argument(text: str) -> tuple[str, str]:
    """Parse NAME=PATH of `--model`."""
    name, separator, path = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return name, path


def write_lines(lines: Iterable[str], path: Path) -> None:
    """Write lines to a file atomically."""
    with atomic_file(path) as part:
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Evaluate the models of the command line, and write answers, accuracies and plot."""
    parser = Parser(prog="python -m playground.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of drawn images")
    parser.add_argument(
        "--model", type=model_argument, action="append", required=True, metavar="NAME=PATH"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument("--limit", type=count, help="first conversations only")
    parser.add_argument("--batch-size", type=count, default=32)
    arguments = parser.parse_args()
    names = [name for name, _ in arguments.model]
    if len(set(names)) < len(names):
        raise MGMError(f"--model: {', '.join(names)}: give each model a name of its own")
    if find_spec("matplotlib") is None:  # fail before hours of generation
        raise MGMError('matplotlib is not installed; run pip install -e ".[playground]"')
    with write_errors(arguments.out):
        arguments.out.mkdir(parents=True, exist_ok=True)
    questions = read_questions(arguments.data, arguments.limit)
    answers = {n: generate_answers(p, questions, arguments.batch_size) for n, p in arguments.model}
    results = {
        name: {
            k: v for group in GROUPS for k, v in counts_by_group(questions, given, group).items()
        }
        for name, given in answers.items()
    }
    records = (
        {**vars(question), "answers": {name: answers[name][i] for name in answers}}
        for i, question in enumerate(questions)
    )
    write_lines((json.dumps(record) for record in records), arguments.out / "answers.jsonl")
    by_question = {
        name: counts_by_group(questions, given, lambda question: question.kind)
        for name, given in answers.items()
    }
    counts = {"table": results, "questions": by_question}
    write_lines([json.dumps(counts, indent=2)], arguments.out / "results.json")
    plot(results, arguments.out / "accuracy.png")
    write_lines([table(results)], arguments.out / "accuracy.txt")  # last: marks a complete folder
    print(table(results))
    print(f"\nPlot: {arguments.out / 'accuracy.png'}   Answers: {arguments.out / 'answers.jsonl'}")


if __name__ == "__main__":
    run_command(main)
