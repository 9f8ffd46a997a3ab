"""Base class of benchmarks whose responses are scored by the letter of a choice."""

from abc import abstractmethod

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Response
from mgm.eval.metrics.vlmevalkit import score_multiple_choice
from mgm.eval.tasks.benchmark import VLMEVALKIT, Benchmark


class LetterBenchmark(Benchmark):
    """Multiple choice: VLMEvalKit's rules in its protocol, `letter` in the others."""

    @abstractmethod
    def letter(self, text: str) -> str | None:
        """Extract the letter of a response; empty or None: it has none."""

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Whether the letter of the response is the target."""
        if protocol == VLMEVALKIT:
            return score_multiple_choice(response, judge)
        return float(self.letter(response.text) == response.question.target)

    def parse(self, response: Response, protocol: str) -> str | None:
        """The letter of the response."""
        if protocol == VLMEVALKIT:
            return super().parse(response, protocol)
        return self.letter(response.text) or ""
