"""The playground's own pictures: questions whose answers are known, drawn on this machine."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mgm.data.text.templates import IMAGE_MARKER
from mgm.errors import MGMError, one_line
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import DATA_ERRORS, Question, Response, SkippedQuestion
from mgm.eval.tasks.benchmark import Benchmark
from mgm.eval.tasks.dataset_source import RequiredFile
from mgm.eval.tasks.files import load_json
from mgm.eval.tasks.llava_format import write_answers_file
from mgm.eval.tasks.prompts import SHORT_ANSWER_PROMPT

CONVERSATIONS_FILE = "conversations.json"
SHORT_ANSWER_SUFFIX = f"\n{SHORT_ANSWER_PROMPT}"


class Nano(Benchmark):
    """Every question of a conversation by itself, exact answers."""

    name, title, folder = "nano", "nano pictures", "nano"
    splits = scored_splits = ("held_out",)
    sizes = {}  # noqa: RUF012  as many as were drawn

    def published_files(self, split: str) -> list[RequiredFile]:
        """A data set of the playground."""
        how = "python -m playground.generate --out data/MGM-Eval/nano --split held_out --seed 2"
        return [RequiredFile(CONVERSATIONS_FILE, how)]

    def published_questions(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """See `Benchmark`."""
        for number, record in enumerate(load_json(folder / CONVERSATIONS_FILE), start=1):
            try:
                yield from list(self._of_record(folder, record))
            except DATA_ERRORS as error:
                yield SkippedQuestion(f"{CONVERSATIONS_FILE}, record {number}", one_line(error))

    def _of_record(self, folder: Path, record: dict[str, Any]) -> Iterator[Question]:
        turns = record.get("conversations")
        kinds = record.get("kinds")
        if not isinstance(turns, list) or not isinstance(kinds, list):
            raise MGMError(f"{folder / CONVERSATIONS_FILE}: is not written by playground.generate")
        heights = record.get("text_heights") or [None] * len(kinds)
        images = record.get("image") or []
        names = [images] if isinstance(images, str) else images
        # A conversation asks for bare answers once; each question on its own has to.
        suffix = SHORT_ANSWER_SUFFIX if turns[0]["value"].endswith(SHORT_ANSWER_SUFFIX) else ""
        for place, kind in enumerate(kinds):
            asked, right = (one["value"] for one in turns[2 * place : 2 * place + 2])
            asked = asked.replace(IMAGE_MARKER, "").removesuffix(suffix).strip() + suffix
            yield Question(
                id=f"{record['id']}/{place}",
                text=asked,
                images=tuple(folder / "images" / name for name in names),
                target=right,
                group=str(record["id"]),
                category=kind,
                max_new_tokens=64,
                metadata={"prompt": asked, "text_size": heights[place]},
            )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Whether the answer is the right one, letter by letter."""
        return float(response.text.strip() == response.question.target.strip())

    def submission(self, responses: Sequence[Response], folder: Path, split: str) -> list[Path]:
        """The answers."""
        return [write_answers_file(folder / "answers.jsonl", responses)]
