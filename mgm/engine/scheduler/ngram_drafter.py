"""Guesses at how answers go on, from how those before went on.

A step waits for weights, keys and values to come from memory, and takes hardly longer for a few
tokens than for one. So the model reads a guess along with an answer's last token, and tells after
each of them what comes next; from the first token on that it would not have written itself, the
guess is dropped. Answers stay what they are (https://arxiv.org/abs/2211.17192). What was written
before, for whomever, is the source of guesses (https://arxiv.org/abs/2411.04975).
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from mgm.errors import MGMError

SHORTEST, LONGEST = 2, 4  # tokens that have to be the same for the next to be the same
LIKELY = 0.1  # that a guess is right up to a token, at least
RUNS = 2**16  # of tokens that are remembered, in some 30 MB
FOLLOWERS = 8  # of each run
# Time that a row, and each of its tokens, adds to a step, in parts of what a step takes anyway: of
# the nano model on two CPU cores. A GPU's are smaller.
ROW, TOKEN = 0.06, 0.03
# How fast experience with guesses fades with each step, and what it is weighed against.
FADING, DOUBT = 0.99, 5.0


@dataclass(frozen=True)
class Guess:
    """Tokens that may come next, and the chance of each that it and those before are right."""

    tokens: tuple[int, ...] = ()
    chances: tuple[float, ...] = ()

    def cut(self, length: int) -> "Guess":
        """So many of the first tokens."""
        return Guess(self.tokens[:length], self.chances[:length])


def check_num_speculative_tokens(count: int, name: str = "num_speculative_tokens") -> None:
    """Raise an MGMError if drafts cannot have up to `count` tokens; `name` is where it was set."""
    if count < 0:
        raise MGMError(f"{name} is {count}; give 0 for no speculative decoding, or more")


class Drafts:
    """Remembers which tokens followed on which, and guesses which will.

    Args:
        most: tokens of a guess; 0: none is made.

    Attributes:
        guessed: tokens so far.
        right: those of them that were.

    Raises:
        MGMError: `most` is negative.
    """

    def __init__(self, most: int) -> None:
        check_num_speculative_tokens(most)
        self.most = most
        self.guessed = 0
        self.right = 0
        self._expected = self._found = 0.0  # right tokens lately
        self._followers: OrderedDict[tuple[int, ...], _Followers] = OrderedDict()

    def guess(self, tokens: Sequence[int], most: int, ends: Collection[int] = ()) -> Guess:
        """What comes after the last tokens of a prompt and its answer, as far as that is likely.

        Args:
            tokens: `LONGEST` of them, or fewer if there are no more.
            most: tokens of the guess, if that is fewer than usual.
            ends: tokens that are not guessed, nor is what comes after them.
        """
        last = list(tokens)
        guess: list[int] = []
        chances: list[float] = []
        chance = (self._found + DOUBT) / (self._expected + DOUBT)
        while len(guess) < min(most, self.most):
            followers = self._after(last)
            if followers is None:
                break
            token, share = followers.likeliest()
            chance *= share
            if token in ends or chance < LIKELY:
                break
            guess.append(token)
            chances.append(chance)
            last = [*last, token][-LONGEST:]
        return Guess(tuple(guess), tuple(chances))

    def worthwhile(self, guesses: Sequence[Guess]) -> list[Guess]:
        """Guesses for the rows of a step, cut to the length that gives most tokens a second.

        All rows of a step are as long as its longest.
        """
        rows = len(guesses)
        tokens, time = float(rows), 1 + ROW * rows
        best, rate = 0, tokens / time
        for length in range(1, max(len(guess.tokens) for guess in guesses) + 1):
            tokens += sum(
                guess.chances[length - 1] for guess in guesses if len(guess.chances) >= length
            )
            time += TOKEN * rows
            if tokens / time > rate:
                best, rate = length, tokens / time
        return [guess.cut(best) for guess in guesses]

    def count(self, guesses: Sequence[Guess], right: int) -> None:
        """Note what was guessed in a step, and how many tokens of all that were right."""
        self.guessed += sum(len(guess.tokens) for guess in guesses)
        self.right += right
        self._expected = FADING * self._expected + sum(sum(guess.chances) for guess in guesses)
        self._found = FADING * self._found + right

    def learn(self, tokens: Sequence[int], new: int) -> None:
        """Remember what the last `new` tokens of these followed on."""
        if not self.most:
            return
        for place in range(max(len(tokens) - new, 0), len(tokens)):
            for run in _runs(tokens[max(place - LONGEST, 0) : place]):
                if run not in self._followers:
                    self._followers[run] = _Followers()
                self._followers[run].add(tokens[place])
                self._followers.move_to_end(run)
        while len(self._followers) > RUNS:
            self._followers.popitem(last=False)

    def _after(self, tokens: Sequence[int]) -> "_Followers | None":
        """What came after as many of the last of these as were seen together."""
        for run in _runs(tokens):
            if run in self._followers:
                return self._followers[run]
        return None


class _Followers:
    """Tokens that came next, the frequent ones at least."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.total = 0

    def add(self, token: int) -> None:
        if token not in self.counts and len(self.counts) == FOLLOWERS:
            del self.counts[min(self.counts, key=self.counts.__getitem__)]
        self.counts[token] = self.counts.get(token, 0) + 1
        self.total += 1

    def likeliest(self) -> tuple[int, float]:
        """A token and its chance; what was seen once is as likely as not to come again."""
        token = max(self.counts, key=self.counts.__getitem__)
        return token, self.counts[token] / (self.total + 1)


def _runs(tokens: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The last of these tokens, the longest run first."""
    for length in range(min(LONGEST, len(tokens)), SHORTEST - 1, -1):
        yield tuple(tokens[-length:])
