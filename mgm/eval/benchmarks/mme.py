"""MME: pairs of yes-or-no questions about images, in fourteen categories."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response, SkippedQuestion
from mgm.eval.metrics.yes_no import NO, OTHER, YES, extract_yes_no, judge_yes_no
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, RequiredFile, Table
from mgm.eval.tasks.files import require_field, require_file
from mgm.eval.tasks.llava_format import line_questions, write_answers_file
from mgm.eval.tasks.prompts import SHORT_ANSWER_SUFFIX

PERCEPTION = (
    *("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark"),
    *("artwork", "OCR"),
)
COGNITION = (
    "commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning",
)  # fmt: skip
OFFICIAL_SUFFIX = " Please answer yes or no."
MAX_OF_CATEGORY = 200.0  # accuracy plus accuracy+, both in per cent


class MME(Benchmark):
    """The sum over categories of accuracy and accuracy+ (both questions of an image right)."""

    name, title, folder, metric = "mme", "MME", "MME", "perception + cognition"
    splits = scored_splits = ("test",)
    sizes: ClassVar = {"test": 2374}
    protocols = (PAPER, LMMS_EVAL, VLMEVALKIT)
    sources: ClassVar = {
        ("test", LMMS_EVAL): HubFiles("lmms-lab-encoder/MME", "**/test-*.parquet", 2374),
        ("test", VLMEVALKIT): Table("MME.tsv", 2374, "b36b43c3f09801f5d368627fb92187c3"),
    }
    also_published = True
    judged = (VLMEVALKIT,)
    headline = ("perception", "cognition")

    def published_files(self, split: str) -> list[RequiredFile]:
        """LLaVA's question file, and images with targets."""
        return [
            RequiredFile("llava_mme.jsonl", "eval.zip of LLaVA's docs/Evaluation.md"),
            RequiredFile("MME_Benchmark_release_version", "MME's authors, on request"),
        ]

    def published_questions(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """Prompts of LLaVA's question file; targets of the text files beside the images."""
        release = require_file(folder / "MME_Benchmark_release_version")
        targets_by_file: dict[Path, dict[str, str]] = {}
        file = folder / "llava_mme.jsonl"

        def make(record: dict[str, Any], index: int) -> Question:
            where = f"{file}, line {index + 1}"
            name, text = (str(require_field(record, key, where)) for key in ("question_id", "text"))
            image = release / str(require_field(record, "image", where))
            official = text.replace(SHORT_ANSWER_SUFFIX, OFFICIAL_SUFFIX).strip()
            targets = _targets(image, targets_by_file)
            target = targets.get(_strip_suffix(official))
            if target is None:
                raise MGMError(f"{image}: no target beside it for {official!r:.100}")
            bare = official.removesuffix(OFFICIAL_SUFFIX)
            prompt = official if protocol == VLMEVALKIT else bare + SHORT_ANSWER_SUFFIX
            kind = name.split("/")[0]
            if kind not in PERCEPTION + COGNITION:
                raise MGMError(f"{where}: {kind!r} is not a category of MME")
            return Question(
                id=f"{name}: {bare}",
                text=text if protocol == PAPER else prompt,
                images=(image,),
                target=target,
                group=name,
                category=kind,
                max_new_tokens=16 if protocol == LMMS_EVAL else 128,
                metadata={"prompt": text, "question_id": name, "official": official},
            )

        yield from line_questions(file, make)

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """The prompt of lmms-eval or VLMEvalKit; images pair questions by category and name."""
        official = row["question"] if protocol == VLMEVALKIT else row["question"].strip()
        bare = official.replace(OFFICIAL_SUFFIX, "")
        kind = row["category"]
        if kind not in PERCEPTION + COGNITION:
            raise ValueError(f"{kind!r} is not a category of MME")
        # The key by which each harness pairs the questions of an image.
        keys = ("image_path", "question_id") if protocol == VLMEVALKIT else ("question_id",)
        name = next((str(row[key]) for key in keys if row.get(key)), images[0].name)
        return Question(
            id=f"{kind}/{name}: {bare}",
            text=official if protocol == VLMEVALKIT else bare + SHORT_ANSWER_SUFFIX,
            images=images,
            target=row["answer"].strip().lower(),
            group=f"{kind}/{name}",
            category=kind,
            max_new_tokens=16 if protocol == LMMS_EVAL else 128,
            metadata={
                "prompt": official,
                "question": bare,
                "question_id": name,
                "official": official,
            },
        )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Whether the extracted yes or no is the target.

        Raises:
            MGMError: the judge does not reply.
        """
        if protocol == VLMEVALKIT:
            parsed = judge_yes_no(response, judge)
        else:
            parsed = MME_PARSERS[protocol](response.text)
        return float(parsed == response.question.target)

    def parse(self, response: Response, protocol: str) -> str | None:
        """The extracted yes or no."""
        parsed = MME_PARSERS[protocol](response.text)
        return parsed if parsed in (YES, NO) else ""

    def highest(self, questions: Sequence[Question], part: str = "") -> float | None:
        """200 per category: 2800 in total, 2000 of perception, 800 of cognition."""
        kinds = {question.category for question in questions}
        groups = {"": PERCEPTION + COGNITION, "perception": PERCEPTION, "cognition": COGNITION}
        return MAX_OF_CATEGORY * len(kinds.intersection(groups.get(part, (part,))))

    def combine(self, questions: Sequence[Question], credits: Sequence[float]) -> float:
        """The sum over categories of accuracy and accuracy+, in per cent."""
        return sum(value for value, _ in self._kinds(questions, credits).values())

    def parts(
        self, questions: Sequence[Question], credits: Sequence[float]
    ) -> dict[str, tuple[float, int]]:
        """The sums of perception and cognition, and the score of each category."""
        kinds = self._kinds(questions, credits)
        sums = {
            title: (
                sum(kinds[kind][0] for kind in names if kind in kinds),
                sum(kinds[kind][1] for kind in names if kind in kinds),
            )
            for title, names in (("perception", PERCEPTION), ("cognition", COGNITION))
        }
        return {title: pair for title, pair in sums.items() if pair[1]} | kinds

    def _kinds(
        self, questions: Sequence[Question], credits: Sequence[float]
    ) -> dict[str, tuple[float, int]]:
        images: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for question, credit in zip(questions, credits, strict=True):
            images[question.category][question.group].append(credit)
        result = {}
        for kind in (*PERCEPTION, *COGNITION):
            credits_by_image = list(images[kind].values())
            count = sum(map(len, credits_by_image))
            if count:
                right = sum(map(sum, credits_by_image)) / count
                both = sum(min(credits) for credits in credits_by_image) / len(credits_by_image)
                result[kind] = (100 * (right + both), count)
        return result

    def submission(self, responses: Sequence[Response], folder: Path, split: str) -> list[Path]:
        """LLaVA's answers file, and a file per category for MME's calculation.py."""
        written = [write_answers_file(folder / "answers.jsonl", responses)]
        rows: dict[str, list[str]] = defaultdict(list)
        for one in responses:
            metadata: Any = one.question.metadata
            name = metadata["question_id"].rsplit("/", 1)[-1]
            text = one.text.replace("\n", " ").replace("\t", " ")
            row = (name, metadata["official"], one.question.target.capitalize(), text)
            rows[one.question.category].append("\t".join(row) + "\n")
        for kind, lines in rows.items():
            path = folder / "eval_tool" / f"{kind}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines), encoding="utf-8")
            written.append(path)
        return written


def parse_mme_answer(text: str) -> str:
    """Parse yes or no in the first four characters, else "other". Source: MME's calculation.py."""
    begin = text.lower()[:4]
    return YES if YES in begin else NO if NO in begin else OTHER


def parse_mme_as_lmms_eval(text: str) -> str:
    """Parse as lmms-eval does: ignores periods, and accepts y and n.

    Source: parse_pred_ans of lmms-eval's tasks/mme/utils.py.
    """
    text = text.lower().strip().replace(".", "")
    return {"y": YES, "n": NO}.get(text) or parse_mme_answer(text)


MME_PARSERS: Mapping[str, Callable[[str], str]] = {
    PAPER: parse_mme_answer,
    LMMS_EVAL: parse_mme_as_lmms_eval,
    VLMEVALKIT: extract_yes_no,
}


def _targets(image: Path, targets_by_file: dict[Path, dict[str, str]]) -> dict[str, str]:
    """Targets by question of an image, in the text file beside it or in its category's folder."""
    default = image.with_suffix(".txt")
    path = default if default.is_file() else None
    if path is None and image.parent.name == "images":
        path = image.parent.parent / "questions_answers_YN" / f"{image.stem}.txt"
    path = require_file(path or default)
    if path not in targets_by_file:
        targets_by_file.clear()  # questions about an image are consecutive
        lines = path.read_text(encoding="utf-8").splitlines()
        pairs = [line.rstrip().rsplit("\t", 1) for line in lines if "\t" in line]
        targets_by_file[path] = {
            _strip_suffix(question): target.strip().lower() for question, target in pairs
        }
    return targets_by_file[path]


def _strip_suffix(question: str) -> str:
    return " ".join(question.strip().removesuffix(OFFICIAL_SUFFIX.strip()).split())
