"""Nano: synthetic images of the playground, with generated questions and targets."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mgm.data.text.templates import IMAGE_MARKER
from mgm.errors import MGMError, one_line
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import DATA_ERRORS, Question, Response, SkippedQuestion
from mgm.eval.tasks.benchmark import Benchmark
from mgm.eval.tasks.dataset_source import RequiredFile
from mgm.eval.tasks.files import load_json
from mgm.eval.tasks.llava_format import write_answers_file
from mgm.eval.tasks.prompts import SHORT_ANSWER_SUFFIX

CONVERSATIONS_FILE = "conversations.json"


class Nano(Benchmark):
    """Exact-match accuracy; each question of a conversation is asked on its own."""

    name, title, folder = "nano", "nano pictures", "nano"
    splits = scored_splits = ("held_out",)
    sizes: ClassVar = {}  # unknown: as generated

    def published_files(self, split: str) -> list[RequiredFile]:
        """The conversations, which playground.generate writes."""
        how = (
            "python -m playground.generate --out data/MGM-Eval/nano --split held_out --count 60"
            " --seed 2 --min-cap-height 12"
        )
        return [RequiredFile(CONVERSATIONS_FILE, how)]

    def published_questions(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """Each turn of a conversation as a question of its own."""
        for number, record in enumerate(load_json(folder / CONVERSATIONS_FILE), start=1):
            try:
                yield from list(self._questions_of_record(folder, record))
            except DATA_ERRORS as error:
                yield SkippedQuestion(f"{CONVERSATIONS_FILE}, record {number}", one_line(error))

    def _questions_of_record(self, folder: Path, record: dict[str, Any]) -> Iterator[Question]:
        turns = record.get("conversations")
        kinds = record.get("kinds")
        if not isinstance(turns, list) or not isinstance(kinds, list):
            raise MGMError(f"{folder / CONVERSATIONS_FILE}: was not written by playground.generate")
        heights = record.get("text_heights") or [None] * len(kinds)
        images = record.get("image") or []
        names = [images] if isinstance(images, str) else images
        # The instruction is in the first turn only, but every question needs it.
        suffix = SHORT_ANSWER_SUFFIX if turns[0]["value"].endswith(SHORT_ANSWER_SUFFIX) else ""
        for index, kind in enumerate(kinds):
            prompt, target = (one["value"] for one in turns[2 * index : 2 * index + 2])
            prompt = prompt.replace(IMAGE_MARKER, "").removesuffix(suffix).strip() + suffix
            yield Question(
                id=f"{record['id']}/{index}",
                text=prompt,
                images=tuple(folder / "images" / name for name in names),
                target=target,
                group=str(record["id"]),
                category=kind,
                max_new_tokens=64,
                metadata={"prompt": prompt, "text_size": heights[index]},
            )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Exact match with the target."""
        return float(response.text.strip() == response.question.target.strip())

    def submission(self, responses: Sequence[Response], folder: Path, split: str) -> list[Path]:
        """An answers file in LLaVA's format."""
        return [write_answers_file(folder / "answers.jsonl", responses)]
