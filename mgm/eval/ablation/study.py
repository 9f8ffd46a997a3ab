"""`--ablate`: a run's questions once more with each ablation, and what that does to its scores."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mgm.atomic import WriteError, atomic_file
from mgm.errors import MGMError
from mgm.eval.ablation.definitions import GREY_VIT, HR_OFF, Ablation, parse_ablations
from mgm.eval.ablation.differences import (
    AblatedScore,
    Utilisation,
    ablated,
    as_json,
    utilisation,
)
from mgm.eval.ablation.inference import ablation_cache, run_ablation
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.models import Answerer, EngineAnswerer
from mgm.eval.harness.question import SkippedQuestion
from mgm.eval.harness.response_cache import AnswerCache
from mgm.eval.harness.runner import Shared, answered
from mgm.eval.plan import Task
from mgm.eval.report.ablation_table import FILE
from mgm.eval.report.report import ablations_text
from mgm.eval.report.score import Score, save_score
from mgm.eval.report.scoring import scored
from mgm.eval.tasks.benchmark import Benchmark

if TYPE_CHECKING:
    from mgm.model.configuration_mgm import MGMConfig

logger = logging.getLogger("mgm.eval")
# What is left out, and the encoder that the score then lacks.
ENCODERS = {HR_OFF: "high-resolution encoder", GREY_VIT: "low-resolution encoder"}


class AblationStudy:
    """The ablations of one run.

    Args:
        names: as `--ablate` has them; without any, nothing is done.
        tasks: what is asked, by the names of benchmarks with their splits.
        read_config: returns the config of the model; called where there are names.

    Raises:
        MGMError: there is no such ablation, the model cannot be run with it, or the answers to a
            benchmark are not known here.
    """

    def __init__(
        self,
        names: Sequence[str],
        tasks: Mapping[str, Task],
        read_config: "Callable[[], MGMConfig]",
    ) -> None:
        for name, task in tasks.items() if names else ():
            if task.split not in task.kind.scored:
                valid = ", ".join(f"{task.kind.name}:{one}" for one in task.kind.scored)
                raise MGMError(
                    f"--ablate: only a server knows the answers of {name}"
                    + (f"; valid: {valid}" if valid else "; leave it out")
                )
        self.ablations = parse_ablations(names, read_config()) if names else []
        self.tasks = tasks
        self._skipped: dict[tuple[str, str], list[SkippedQuestion]] = {}

    def forecast(self, name: str) -> str:
        """A line that says how many questions of a benchmark will be asked."""
        task, more = self.tasks[name], ""
        if self.ablations:
            total = len(task.asked) * (1 + len(self.ablations))
            more = f", and again with {len(self.ablations)} ablations: {total} answers"
        return f"{name}: {len(task.asked)} questions, protocol {task.protocol}{more}\n"

    def ask(
        self, answerer: Answerer, cache: AnswerCache, process: int = 0, processes: int = 1
    ) -> list[str]:
        """Have all questions answered with each ablation; answers go into the cache.

        Args:
            answerer: the engine.
            cache: of the full model.
            process: the number of this one.
            processes: that share the work.

        Returns:
            An error for each ablation and benchmark that could not be asked.

        Raises:
            MGMError: an answer cannot be written, or the model does not run in this process.
        """
        errors = []
        for ablation in self.ablations:
            if not isinstance(answerer, EngineAnswerer):
                raise MGMError("--ablate changes the model in this process; give --model-path")
            for name, task in self.tasks.items():
                title = "" if process else f"{name}, {ablation.name}"
                try:
                    self._skipped[ablation.name, name] = run_ablation(
                        ablation, task.asked, answerer, cache, process, processes, title
                    )
                except WriteError:
                    raise
                except MGMError as error:
                    errors.append(f"{name}, --ablate {ablation.name}: {error}")
        return errors

    def shared(self, cache: AnswerCache) -> dict[str, Shared]:
        """What processes exchange about each ablation, by names that no benchmark has.

        Args:
            cache: of the full model.
        """
        return {
            f"{name} {one.name}": Shared(task.asked, ablation_cache(cache, one, task.asked))
            for one in self.ablations
            for name, task in self.tasks.items()
        }

    def report(
        self,
        output: Path,
        full: Mapping[str, Score],
        cache: AnswerCache,
        judge: Judge,
        without_thinking: bool = False,
    ) -> tuple[str, list[str]]:
        """Score the answers with each ablation, and write what the report shows of them.

        An ablation that was not asked yet is left out of the table, with a warning.

        Args:
            output: of the run; ablations.json goes beside the score of the full model, and the
                score with an ablation to `ablations/NAME.json` there.
            full: scores of the full model, by the names of benchmarks with their splits.
            cache: of the full model.
            judge: of free answers.
            without_thinking: as for `scored`.

        Returns:
            The tables in Markdown, and errors of what could not be scored.

        Raises:
            MGMError: a file cannot be written.
        """
        text, errors = "", []
        for name, score in full.items() if self.ablations else ():
            task = self.tasks[name]
            scores = self._scores(name, cache, judge, without_thinking, errors)
            if not scores:
                continue
            folder, rows = task.folder(output), []
            for one, own in scores.items():
                save_ablated(own, one, folder)
                try:
                    rows += ablated(task.kind, score, {one.name: (one.description, own)})
                except MGMError as error:
                    errors.append(f"{name}, --ablate {one.name}: {error}")
            content = as_json(score, rows, _rates(task.kind, score, rows))
            with atomic_file(folder / FILE) as part:
                part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
            text += ablations_text(score, content)
        return text, errors

    def _scores(
        self,
        name: str,
        cache: AnswerCache,
        judge: Judge,
        without_thinking: bool,
        errors: list[str],
    ) -> dict[Ablation, Score]:
        """Scores of a benchmark with each ablation that has answers; errors go into `errors`."""
        task, scores, missing = self.tasks[name], {}, []
        for ablation in self.ablations:
            own = answered(task.asked, ablation_cache(cache, ablation, task.asked))
            if not own:
                missing.append(ablation.name)
                continue
            skipped = self._skipped.get((ablation.name, name), ())
            try:
                scores[ablation] = scored(
                    *(task.kind, task.split, task.protocol, task.questions, own, judge, skipped),
                    without_thinking=without_thinking,
                )
            except MGMError as error:
                errors.append(f"{name}, --ablate {ablation.name}: {error}")
        if missing:
            text = f"{name}: not asked yet with --ablate {' '.join(missing)}"
            if len(missing) == len(self.ablations):
                errors.append(f"{text}; run again without --score-only")
            else:
                logger.warning("%s; the table leaves that out", text)
        return scores


def save_ablated(score: Score, ablation: Ablation, folder: Path) -> None:
    """Write a score with an ablation below the folder of the full model's score.

    Raises:
        MGMError: it cannot be written.
    """
    path = folder / "ablations" / f"{ablation.name.replace(':', '-')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_score(replace(score, run={"ablation": ablation.name}), path)


def _rates(kind: Benchmark, full: Score, scores: Sequence[AblatedScore]) -> list[Utilisation]:
    """How much of a score each encoder accounts for, if both were left out."""
    by_name = {one.name: one.score for one in scores}
    if not ENCODERS.keys() <= by_name.keys():
        return []
    rates = (utilisation(kind, full, by_name[name], text) for name, text in ENCODERS.items())
    return [rate for rate in rates if rate is not None]
