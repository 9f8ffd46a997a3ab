"""Result of mining attribution for one image: mining weights and the answer's attention."""

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class MiningAttribution:
    """Attention of one image's tokens in patch info mining, and of an answer to these tokens.

    Attributes:
        view: the high-resolution view of the image, a square, as the model gets it.
        grid: crops per side; the global view, if there is one, follows them.
        mining: (crops, tokens, positions) attention of each token to the positions of its window;
            both in row-major order.
        answer: (crops, tokens) attention of the answer to each token, the mean over the language
            model's layers and heads and over the answer's tokens; None without an answer.
    """

    view: Image.Image
    grid: int
    mining: np.ndarray
    answer: np.ndarray | None
