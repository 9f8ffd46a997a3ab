"""Attribution of one image: mining weights, and the answer's attention to visual tokens."""

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class MinedDetail:
    """Where the visual tokens of one image looked, and who looked at them.

    Attributes:
        view: the high-resolution view of the image, a square, as the model sees it.
        grid: crops of it per side; a global view, if there is one, comes after them.
        mining: (crops, tokens, positions), the share of each position in what its token mined;
            tokens of a crop and positions of a token's window go row by row.
        answer: (crops, tokens), the share of each token in the attention of the answer, a mean over
            the language model's layers and heads and over the answer's tokens; None where there was
            no answer.
    """

    view: Image.Image
    grid: int
    mining: np.ndarray
    answer: np.ndarray | None
