"""`--ablate`: runs all tasks with each ablation, and compares the scores with the full model."""

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
    as_json,
    compare_ablation,
    utilisation,
)
from mgm.eval.ablation.inference import ablation_cache, run_ablation
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.models import EngineModel, Model
from mgm.eval.harness.question import SkippedQuestion
from mgm.eval.harness.response_cache import ResponseCache
from mgm.eval.harness.runner import BenchmarkResponses, cached_responses
from mgm.eval.plan import Task
from mgm.eval.report.ablation_table import ABLATIONS_FILE
from mgm.eval.report.markdown_tables import ablations_text
from mgm.eval.report.score import Score, save_score
from mgm.eval.report.scoring import score_responses
from mgm.eval.tasks.benchmark import Benchmark

if TYPE_CHECKING:
    from mgm.model.configuration_mgm import MGMConfig

logger = logging.getLogger("mgm.eval")
# Ablations that switch one encoder off, for its utilisation rate.
ENCODERS = {HR_OFF: "high-resolution encoder", GREY_VIT: "low-resolution encoder"}


class AblationStudy:
    """The ablations of one run.

    Args:
        names: values of `--ablate`; empty: nothing is done.
        tasks: tasks by `NAME:SPLIT`.
        read_config: returns the config of the model; called only if there are names.

    Raises:
        MGMError: unknown ablation, the model does not support it, or the targets of a benchmark are
            not public.
    """

    def __init__(
        self,
        names: Sequence[str],
        tasks: Mapping[str, Task],
        read_config: "Callable[[], MGMConfig]",
    ) -> None:
        for name, task in tasks.items() if names else ():
            if task.split not in task.benchmark.scored_splits:
                valid = ", ".join(
                    f"{task.benchmark.name}:{split}" for split in task.benchmark.scored_splits
                )
                raise MGMError(
                    f"--ablate: the targets of {name} are not public"
                    + (f"; valid: {valid}" if valid else "; remove it")
                )
        self.ablations = parse_ablations(names, read_config()) if names else []
        self.tasks = tasks
        self._skipped: dict[tuple[str, str], list[SkippedQuestion]] = {}

    def forecast(self, name: str) -> str:
        """The line of --dry-run: the number of questions of a task, times ablations."""
        task, suffix = self.tasks[name], ""
        if self.ablations:
            total = len(task.selected) * (1 + len(self.ablations))
            suffix = f", repeated with {len(self.ablations)} ablations: {total} responses"
        return f"{name}: {len(task.selected)} questions, protocol {task.protocol}{suffix}\n"

    def generate(
        self, model: Model, cache: ResponseCache, rank: int = 0, world_size: int = 1
    ) -> list[str]:
        """Generate the responses to all tasks with each ablation, into the cache.

        Args:
            model: a local model.
            cache: cache of the full model.
            rank: rank of this process.
            world_size: number of processes.

        Returns:
            An error for each ablation and benchmark that could not be run.

        Raises:
            MGMError: a response cannot be written, or the model is not local.
        """
        errors = []
        for ablation in self.ablations:
            if not isinstance(model, EngineModel):
                raise MGMError("--ablate needs a local model; give --model-path")
            for name, task in self.tasks.items():
                title = "" if rank else f"{name}, {ablation.name}"
                try:
                    self._skipped[ablation.name, name] = run_ablation(
                        ablation, task.selected, model, cache, rank, world_size, title
                    )
                except WriteError:
                    raise
                except MGMError as error:
                    errors.append(f"{name}, --ablate {ablation.name}: {error}")
        return errors

    def benchmark_responses(self, cache: ResponseCache) -> dict[str, BenchmarkResponses]:
        """The responses to exchange between processes, by `NAME:SPLIT ABLATION`.

        Args:
            cache: cache of the full model.
        """
        return {
            f"{name} {ablation.name}": BenchmarkResponses(
                task.selected, ablation_cache(cache, ablation, task.selected)
            )
            for ablation in self.ablations
            for name, task in self.tasks.items()
        }

    def report(
        self,
        output: Path,
        full: Mapping[str, Score],
        cache: ResponseCache,
        judge: Judge,
        without_thinking: bool = False,
    ) -> tuple[str, list[str]]:
        """Score the responses with each ablation, and write ablations.json.

        Ablations that were not run yet are missing in the table, with a warning.

        Args:
            output: of the run; ablations.json goes beside the score of the full model, and the
                score with an ablation to `ablations/NAME.json` there.
            full: scores of the full model, by the names of benchmarks with their splits.
            cache: cache of the full model.
            judge: LLM judge of free-form responses.
            without_thinking: as for `scored_splits`.

        Returns:
            The tables in Markdown, and errors of what could not be scored.

        Raises:
            MGMError: a file cannot be written.
        """
        tables, errors = "", []
        for name, score in full.items() if self.ablations else ():
            task = self.tasks[name]
            scores = self._scores(name, cache, judge, without_thinking, errors)
            if not scores:
                continue
            folder, compared = task.folder(output), []
            for ablation, ablated in scores.items():
                save_ablated_score(ablated, ablation, folder)
                try:
                    compared.append(compare_ablation(task.benchmark, score, ablation, ablated))
                except MGMError as error:
                    errors.append(f"{name}, --ablate {ablation.name}: {error}")
            content = as_json(score, compared, _rates(task.benchmark, score, compared))
            with atomic_file(folder / ABLATIONS_FILE) as part:
                part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
            tables += ablations_text(score, content)
        return tables, errors

    def _scores(
        self,
        name: str,
        cache: ResponseCache,
        judge: Judge,
        without_thinking: bool,
        errors: list[str],
    ) -> dict[Ablation, Score]:
        """Scores of a task with each ablation that has responses; failures go into `errors`."""
        task, scores, missing = self.tasks[name], {}, []
        for ablation in self.ablations:
            responses = cached_responses(
                task.selected, ablation_cache(cache, ablation, task.selected)
            )
            if not responses:
                missing.append(ablation.name)
                continue
            skipped = self._skipped.get((ablation.name, name), ())
            try:
                scores[ablation] = score_responses(
                    *(task.benchmark, task.split, task.protocol, task.questions, responses),
                    *(judge, skipped, without_thinking),
                )
            except MGMError as error:
                errors.append(f"{name}, --ablate {ablation.name}: {error}")
        if missing:
            message = f"{name}: not run yet with --ablate {' '.join(missing)}"
            if len(missing) == len(self.ablations):
                errors.append(f"{message}; run again without --score-only")
            else:
                logger.warning("%s; missing in the table", message)
        return scores


def save_ablated_score(score: Score, ablation: Ablation, folder: Path) -> None:
    """Write a score with an ablation below the folder of the full model's score.

    Raises:
        MGMError: it cannot be written.
    """
    path = folder / "ablations" / f"{ablation.name.replace(':', '-')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_score(replace(score, run={"ablation": ablation.name}), path)


def _rates(benchmark: Benchmark, full: Score, scores: Sequence[AblatedScore]) -> list[Utilisation]:
    """Utilisation rates of both encoders, if both ablations of `ENCODERS` were run."""
    by_name = {ablation.name: ablation.score for ablation in scores}
    if not ENCODERS.keys() <= by_name.keys():
        return []
    rates = (utilisation(benchmark, full, by_name[name], title) for name, title in ENCODERS.items())
    return [rate for rate in rates if rate is not None]
