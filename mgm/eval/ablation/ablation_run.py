"""`--ablate`: a run's questions once more with each ablation, and what that does to its scores."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mgm.atomic import atomic_file
from mgm.errors import MGMError
from mgm.eval.ablation.ablations import (
    GREY_VIT,
    HR_OFF,
    Ablation,
    ablation_cache,
    parse_ablations,
    run_ablation,
)
from mgm.eval.ablation.differences import (
    AblatedScore,
    Utilisation,
    ablated,
    as_json,
    utilisation,
)
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.models import Answerer, EngineAnswerer
from mgm.eval.harness.question import Question, SkippedQuestion
from mgm.eval.harness.response_cache import AnswerCache
from mgm.eval.harness.runner import answered
from mgm.eval.report.ablations import FILE
from mgm.eval.report.report import ablations_text
from mgm.eval.report.score import Score, save_score
from mgm.eval.report.scoring import scored
from mgm.eval.tasks.benchmark import Benchmark

Task = tuple[Benchmark, str, str, Sequence[Question]]  # with split and protocol
# What is left out, and the encoder that the score then lacks.
ENCODERS = {HR_OFF: "high-resolution encoder", GREY_VIT: "low-resolution encoder"}


class AblationRun:
    """The ablations of one run.

    Args:
        names: as `--ablate` has them.
        tasks: what is asked, by the names of benchmarks with their splits.

    Raises:
        MGMError: there is no such ablation, or the answers to a benchmark are not known here.
    """

    def __init__(self, names: Sequence[str], tasks: Mapping[str, Task]) -> None:
        self.ablations = parse_ablations(names)
        self.tasks = tasks
        self._skipped: dict[tuple[str, str], list[SkippedQuestion]] = {}
        for name, (kind, split, _, _) in tasks.items() if self.ablations else ():
            if split not in kind.scored:
                offered = ", ".join(f"{kind.name}:{one}" for one in kind.scored)
                raise MGMError(
                    f"--ablate: only a server knows the answers of {name}"
                    + (f"; valid: {offered}" if offered else "; leave it out")
                )

    def check_model(self, answerer: Answerer) -> None:
        """Raise an MGMError if the model that answers cannot be run with each ablation."""
        for one in self.ablations:
            one.fusion(_local(answerer).engine.model.config)

    def ask(
        self, answerer: Answerer, cache: AnswerCache, process: int = 0, processes: int = 1
    ) -> None:
        """Have all questions answered with each ablation; answers go into the cache.

        Args:
            answerer: the engine.
            cache: of the full model.
            process: the number of this one.
            processes: that share the work.

        Raises:
            MGMError: no question can be answered any more.
        """
        for ablation in self.ablations:
            for name, (_, _, _, questions) in self.tasks.items():
                title = "" if process else f"{name}, {ablation.name}"
                self._skipped[ablation.name, name] = run_ablation(
                    ablation, questions, _local(answerer), cache, process, processes, title
                )

    def caches(self, cache: AnswerCache) -> dict[str, tuple[Sequence[Question], AnswerCache]]:
        """Questions and where their answers are, by names that no other has.

        Args:
            cache: of the full model.
        """
        return {
            f"{name} {one.name}": (questions, ablation_cache(cache, one, questions))
            for one in self.ablations
            for name, (_, _, _, questions) in self.tasks.items()
        }

    def report(
        self,
        output: Path,
        full: Mapping[str, Score],
        cache: AnswerCache,
        judge: Judge,
        without_thinking: bool = False,
    ) -> str:
        """Score the answers with each ablation, and write what the report shows of them.

        Args:
            output: of the run; ablations.json goes beside the score of the full model, and the
                score with an ablation to `ablations/NAME.json` there.
            full: scores of the full model, by the names of benchmarks with their splits.
            cache: of the full model.
            judge: of free answers.
            without_thinking: as for `scored`.

        Returns:
            The tables in Markdown; empty: there are no ablations.

        Raises:
            MGMError: nothing was asked with an ablation yet, or a file cannot be written.
        """
        text = ""
        for name in full if self.ablations else ():
            task = self.tasks[name]
            found = {
                one.name: (
                    one.description,
                    self._score(one, output, name, cache, judge, without_thinking),
                )
                for one in self.ablations
            }
            scores = ablated(task[0], full[name], found)
            rates = _rates(task[0], full[name], scores)
            content = as_json(full[name], scores, rates)
            with atomic_file(self._folder(output, name) / FILE) as part:
                part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
            text += ablations_text(full[name], content)
        return text

    def _score(
        self,
        ablation: Ablation,
        output: Path,
        name: str,
        cache: AnswerCache,
        judge: Judge,
        without_thinking: bool,
    ) -> Score:
        kind, split, protocol, questions = self.tasks[name]
        own = answered(questions, ablation_cache(cache, ablation, questions))
        skipped = self._skipped.get((ablation.name, name), ())
        try:
            score = scored(kind, split, protocol, questions, own, judge, skipped, without_thinking)
        except MGMError as error:
            raise MGMError(f"--ablate {ablation.name}: {error}") from error
        folder = self._folder(output, name) / "ablations"
        folder.mkdir(parents=True, exist_ok=True)
        score = replace(score, run={"ablation": ablation.name})
        save_score(score, folder / f"{ablation.name.replace(':', '-')}.json")
        return score

    def _folder(self, output: Path, name: str) -> Path:
        """Where the score of a benchmark lies."""
        kind, split, protocol, _ = self.tasks[name]
        return output / kind.name / split / protocol


def _local(answerer: Answerer) -> EngineAnswerer:
    if not isinstance(answerer, EngineAnswerer):
        raise MGMError("--ablate changes the model in this process; give --model-path alone")
    return answerer


def _rates(kind: Benchmark, full: Score, scores: Sequence[AblatedScore]) -> list[Utilisation]:
    """How much of a score each encoder accounts for, if both were left out."""
    by_name = {one.name: one.score for one in scores}
    if not ENCODERS.keys() <= by_name.keys():
        return []
    rates = (utilisation(kind, full, by_name[name], text) for name, text in ENCODERS.items())
    return [rate for rate in rates if rate is not None]
