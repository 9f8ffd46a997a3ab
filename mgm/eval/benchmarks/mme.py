"""MME: two yes-or-no questions about every image, in fourteen kinds."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question, SkippedQuestion
from mgm.eval.metrics.yes_no import NO, OTHER, YES, extracted_yes_or_no, judged_yes_or_no
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Needed, Table
from mgm.eval.tasks.files import field, present
from mgm.eval.tasks.llava_format import line_questions, write_answers
from mgm.eval.tasks.prompts import SINGLE_WORD

PERCEPTION = (
    *("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark"),
    *("artwork", "OCR"),
)
COGNITION = (
    "commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning",
)  # fmt: skip
OFFICIAL_SUFFIX = " Please answer yes or no."
HIGHEST_OF_KIND = 200.0  # 100 for right answers and 100 for images with both right
SINGLE = f"\n{SINGLE_WORD}"


class MME(Benchmark):
    """The sum over kinds of the share of right answers and of images with both answers right."""

    name, title, folder, metric = "mme", "MME", "MME", "perception + cognition"
    splits = scored = ("test",)
    sizes: ClassVar = {"test": 2374}
    protocols = (PAPER, LMMS_EVAL, VLMEVALKIT)
    sources: ClassVar = {
        ("test", LMMS_EVAL): HubFiles("lmms-lab-encoder/MME", "**/test-*.parquet", 2374),
        ("test", VLMEVALKIT): Table("MME.tsv", 2374, "b36b43c3f09801f5d368627fb92187c3"),
    }
    also_published = True
    judged = (VLMEVALKIT,)
    headline = ("perception", "cognition")

    def needs(self, split: str) -> list[Needed]:
        """Questions, and images with their answers."""
        return [
            Needed("llava_mme.jsonl", "eval.zip of LLaVA's docs/Evaluation.md"),
            Needed("MME_Benchmark_release_version", "MME's authors, on request"),
        ]

    def published(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """See `Benchmark`. Answers stand in text files beside the images."""
        release = present(folder / "MME_Benchmark_release_version")
        known: dict[Path, dict[str, str]] = {}
        file = folder / "llava_mme.jsonl"

        def make(record: dict[str, Any], index: int) -> Question:
            where = f"{file}, line {index + 1}"
            name, text = (str(field(record, key, where)) for key in ("question_id", "text"))
            image = release / str(field(record, "image", where))
            official = text.replace(SINGLE, OFFICIAL_SUFFIX).strip()
            answers = _answers(image, known)
            answer = answers.get(_bare(official))
            if answer is None:
                raise MGMError(f"{image}: there is no answer beside it to {official!r:.100}")
            bare = official.removesuffix(OFFICIAL_SUFFIX)
            prompt = official if protocol == VLMEVALKIT else bare + SINGLE
            kind = name.split("/")[0]
            if kind not in PERCEPTION + COGNITION:
                raise MGMError(f"{where}: {kind!r} is no kind of question of MME")
            return Question(
                id=f"{name}: {bare}",
                text=text if protocol == PAPER else prompt,
                images=(image,),
                answer=answer,
                group=name,
                category=kind,
                max_new_tokens=16 if protocol == LMMS_EVAL else 128,
                facts={"prompt": text, "question_id": name, "official": official},
            )

        yield from line_questions(file, make)

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        official = row["question"] if protocol == VLMEVALKIT else row["question"].strip()
        bare = official.replace(OFFICIAL_SUFFIX, "")
        kind = row["category"]
        if kind not in PERCEPTION + COGNITION:
            raise ValueError(f"{kind!r} is no kind of question of MME")
        # Answers are paired by what each harness pairs them by.
        keys = ("image_path", "question_id") if protocol == VLMEVALKIT else ("question_id",)
        name = next((str(row[key]) for key in keys if row.get(key)), images[0].name)
        return Question(
            id=f"{kind}/{name}: {bare}",
            text=official if protocol == VLMEVALKIT else bare + SINGLE,
            images=images,
            answer=row["answer"].strip().lower(),
            group=f"{kind}/{name}",
            category=kind,
            max_new_tokens=16 if protocol == LMMS_EVAL else 128,
            facts={"prompt": official, "question": bare, "question_id": name, "official": official},
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether yes or no is right.

        Raises:
            MGMError: the judge does not reply.
        """
        if protocol == VLMEVALKIT:
            parsed = judged_yes_or_no(answered, judge)
        else:
            parsed = PARSERS[protocol](answered.text)
        return float(parsed == answered.question.answer)

    def parse(self, answered: Answered, protocol: str) -> str | None:
        """Yes or no; see `Benchmark`."""
        parsed = PARSERS[protocol](answered.text)
        return parsed if parsed in (YES, NO) else ""

    def highest(self, questions: Sequence[Question], part: str = "") -> float | None:
        """200 of every kind of question: 2800 of all, 2000 of perception, 800 of cognition."""
        kinds = {question.category for question in questions}
        groups = {"": PERCEPTION + COGNITION, "perception": PERCEPTION, "cognition": COGNITION}
        return HIGHEST_OF_KIND * len(kinds.intersection(groups.get(part, (part,))))

    def combine(self, questions: Sequence[Question], credits: Sequence[float]) -> float:
        """The sum over kinds; see `highest`."""
        return sum(value for value, _ in self._kinds(questions, credits).values())

    def parts(
        self, questions: Sequence[Question], credits: Sequence[float]
    ) -> dict[str, tuple[float, int]]:
        """Perception, cognition, and every kind."""
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
            own = list(images[kind].values())
            count = sum(map(len, own))
            if count:
                right = sum(map(sum, own)) / count
                both = sum(min(credits) for credits in own) / len(own)
                result[kind] = (100 * (right + both), count)
        return result

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """Answers, and a file for each kind as MME's calculation reads them."""
        written = [write_answers(folder / "answers.jsonl", answered)]
        rows: dict[str, list[str]] = defaultdict(list)
        for one in answered:
            facts: Any = one.question.facts
            name = facts["question_id"].rsplit("/", 1)[-1]
            text = one.text.replace("\n", " ").replace("\t", " ")
            row = (name, facts["official"], one.question.answer.capitalize(), text)
            rows[one.question.category].append("\t".join(row) + "\n")
        for kind, lines in rows.items():
            path = folder / "eval_tool" / f"{kind}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines), encoding="utf-8")
            written.append(path)
        return written


def parse(text: str) -> str:
    """Yes or no, by the first four letters; else "other". Source: MME's calculation.py."""
    begin = text.lower()[:4]
    return YES if YES in begin else NO if NO in begin else OTHER


def lmms_eval_parse(text: str) -> str:
    """The same without full stops; the letters y and n count, too.

    Source: parse_pred_ans of lmms-eval's tasks/mme/utils.py.
    """
    text = text.lower().strip().replace(".", "")
    return {"y": YES, "n": NO}.get(text) or parse(text)


PARSERS: Mapping[str, Callable[[str], str]] = {
    PAPER: parse,
    LMMS_EVAL: lmms_eval_parse,
    VLMEVALKIT: extracted_yes_or_no,
}


def _answers(image: Path, known: dict[Path, dict[str, str]]) -> dict[str, str]:
    """Questions and answers about an image: beside it, or in its kind's folder of texts."""
    beside = image.with_suffix(".txt")
    path = beside if beside.is_file() else None
    if path is None and image.parent.name == "images":
        path = image.parent.parent / "questions_answers_YN" / f"{image.stem}.txt"
    path = present(path or beside)
    if path not in known:
        known.clear()  # questions about an image stand together
        lines = path.read_text(encoding="utf-8").splitlines()
        pairs = [line.rstrip().rsplit("\t", 1) for line in lines if "\t" in line]
        known[path] = {_bare(question): answer.strip().lower() for question, answer in pairs}
    return known[path]


def _bare(question: str) -> str:
    return " ".join(question.strip().removesuffix(OFFICIAL_SUFFIX.strip()).split())
