"""The playground's own pictures: questions whose answers are known, drawn on this machine."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mgm.data.text.templates import IMAGE_MARKER
from mgm.errors import MGMError, one_line
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import DATA_ERRORS, Answered, Question, SkippedQuestion
from mgm.eval.tasks.benchmark import Benchmark
from mgm.eval.tasks.dataset_source import Needed
from mgm.eval.tasks.files import read_json
from mgm.eval.tasks.llava_format import write_answers
from mgm.eval.tasks.prompts import SINGLE_WORD

FILE = "conversations.json"
SHORT = f"\n{SINGLE_WORD}"


class Nano(Benchmark):
    """Every question of a conversation by itself, exact answers."""

    name, title, folder = "nano", "nano pictures", "nano"
    splits = scored = ("held_out",)
    sizes: ClassVar = {}  # as many as were drawn

    def needs(self, split: str) -> list[Needed]:
        """A data set of the playground."""
        how = "python -m playground.generate --out data/MGM-Eval/nano --split held_out --seed 2"
        return [Needed(FILE, how)]

    def published(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """See `Benchmark`."""
        for number, record in enumerate(read_json(folder / FILE), start=1):
            try:
                yield from list(self._of_record(folder, record))
            except DATA_ERRORS as error:
                yield SkippedQuestion(f"{FILE}, record {number}", one_line(error))

    def _of_record(self, folder: Path, record: dict[str, Any]) -> Iterator[Question]:
        turns = record.get("conversations")
        kinds = record.get("kinds")
        if not isinstance(turns, list) or not isinstance(kinds, list):
            raise MGMError(f"{folder / FILE}: is not written by playground.generate")
        heights = record.get("text_heights") or [None] * len(kinds)
        images = record.get("image") or []
        names = [images] if isinstance(images, str) else images
        # A conversation asks for bare answers once; each question on its own has to.
        suffix = SHORT if turns[0]["value"].endswith(SHORT) else ""
        for place, kind in enumerate(kinds):
            asked, right = (one["value"] for one in turns[2 * place : 2 * place + 2])
            asked = asked.replace(IMAGE_MARKER, "").removesuffix(suffix).strip() + suffix
            yield Question(
                id=f"{record['id']}/{place}",
                text=asked,
                images=tuple(folder / "images" / name for name in names),
                answer=right,
                group=str(record["id"]),
                category=kind,
                max_new_tokens=64,
                facts={"prompt": asked, "text_size": heights[place]},
            )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether the answer is the right one, letter by letter."""
        return float(answered.text.strip() == answered.question.answer.strip())

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """The answers."""
        return [write_answers(folder / "answers.jsonl", answered)]
