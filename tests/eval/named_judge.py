"""A judge for tests."""

from mgm.eval.harness.llm_judge import Judge


class Named(Judge):
    """A judge that says what it was told to."""

    name = "named"
    is_model = True

    def __init__(self, *says: str) -> None:
        self.says, self.asked = list(says), []

    def complete(
        self, prompt: str, temperature: float = 0.0, max_tokens: int = 128, accepts=None, system=""
    ) -> str:
        self.asked.append((prompt, temperature))
        return self.says.pop(0)
