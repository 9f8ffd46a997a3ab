"""A judge for tests."""

from mgm.eval.harness.llm_judge import Judge


class ScriptedJudge(Judge):
    """An LLM judge that returns given replies one after the other, and records its prompts."""

    name = "scripted"
    is_model = True

    def __init__(self, *replies: str) -> None:
        self.replies, self.prompts = list(replies), []

    def complete(
        self, prompt: str, temperature: float = 0.0, max_tokens: int = 128, accepts=None, system=""
    ) -> str:
        self.prompts.append((prompt, temperature))
        return self.replies.pop(0)
