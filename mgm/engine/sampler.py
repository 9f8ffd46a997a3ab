"""Which token comes next."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Sampler:
    """Draws tokens for one answer; its draws depend on nothing but the seed.

    Args:
        temperature: above 0; larger values even the chances out. 0: nothing is drawn.
        top_p: only the likeliest tokens that together reach this probability are drawn.
        seed: makes the draws repeatable; None: other draws every time.
    """

    def __init__(self, temperature: float, top_p: float = 1.0, seed: int | None = None) -> None:
        self.temperature = temperature
        self.top_p = top_p
        # On the CPU whatever the device, so that a seed means the same everywhere.
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def draw(self, logits: Tensor) -> int:
        """A token id.

        Args:
            logits: (vocabulary,), of any dtype and on any device.
        """
        logits = logits.float().cpu()
        # The largest becomes 0 first: a tiny temperature must not make infinities.
        chances = ((logits - logits.max()) / self.temperature).softmax(-1)
        if self.top_p < 1:
            ordered, order = chances.sort(descending=True, stable=True)
            before = ordered.cumsum(-1) - ordered  # of the likelier ones; the first always stays
            chances = torch.zeros_like(chances).scatter(0, order, ordered * (before < self.top_p))
        return int(torch.multinomial(chances, 1, generator=self._generator))


def choose(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """The next token id of every row: the likeliest one, or one drawn.

    Args:
        logits: (batch, vocabulary).
        samplers: one for each row.
    """
    tokens = logits.argmax(-1).tolist()  # for all rows at once: the device is waited for once
    for row, sampler in enumerate(samplers):
        if sampler.temperature > 0:
            tokens[row] = sampler.draw(logits[row])
    return tokens
