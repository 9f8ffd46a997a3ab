"""N-gram speculative decoding: drafts tokens seen in earlier outputs, verified in one forward pass.

A decode step is bound by memory bandwidth and takes hardly longer for a few tokens per sequence
than for one. So the model runs on the last sampled token and a draft, and the draft is accepted up
to the first token that would not have been sampled: outputs are the same as without drafts
(https://arxiv.org/abs/2211.17192). Drafts come from n-grams of all earlier outputs, as in prompt
lookup decoding (https://arxiv.org/abs/2411.04975).
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from mgm.errors import MGMError

MIN_NGRAM, MAX_NGRAM = 2, 4  # tokens of context that select the next draft token
MIN_PROBABILITY = 0.1  # minimum probability that a draft is accepted up to a token
MAX_NGRAMS = 2**16  # n-grams with counts, about 30 MB
MAX_CONTINUATIONS = 8  # next tokens with counts of each n-gram
# Cost model: time that each row, and each draft token of a row, adds to a decode step, relative to
# its fixed time. Fitted to the nano model on two CPU cores; a GPU's are smaller.
ROW_COST, TOKEN_COST = 0.06, 0.03
# Decay of the running acceptance rate per step, and the pseudo-count of its prior.
ACCEPTANCE_DECAY, PRIOR_COUNT = 0.99, 5.0


@dataclass(frozen=True)
class Draft:
    """Draft tokens of one sequence.

    Attributes:
        tokens: token ids.
        probabilities: probability, per token, that it and all before it are accepted.
    """

    tokens: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()

    def truncate(self, length: int) -> "Draft":
        """The first tokens of the draft."""
        return Draft(self.tokens[:length], self.probabilities[:length])


def check_num_speculative_tokens(count: int, name: str = "num_speculative_tokens") -> None:
    """Raise an MGMError if `count`, the value of the option `name`, is not valid."""
    if count < 0:
        raise MGMError(f"{name} is {count}; give 0 for no speculative decoding, or more")


class NGramDrafter:
    """Proposes drafts from n-gram counts of earlier outputs.

    Args:
        num_speculative_tokens: maximum length of a draft; 0: no drafts.

    Attributes:
        num_speculative_tokens: maximum length of a draft.
        num_draft_tokens: draft tokens proposed so far.
        num_accepted_tokens: draft tokens accepted so far.

    Raises:
        MGMError: `num_speculative_tokens` is negative.
    """

    def __init__(self, num_speculative_tokens: int) -> None:
        check_num_speculative_tokens(num_speculative_tokens)
        self.num_speculative_tokens = num_speculative_tokens
        self.num_draft_tokens = 0
        self.num_accepted_tokens = 0
        self._recent_expected = self._recent_accepted = 0.0  # decayed sums of the acceptance rate
        self._ngrams: OrderedDict[tuple[int, ...], _NextTokenCounts] = OrderedDict()

    def propose(
        self, context: Sequence[int], max_tokens: int, stop_ids: Collection[int] = ()
    ) -> Draft:
        """Draft the likely continuation of a sequence.

        Args:
            context: the last `MAX_NGRAM` tokens of prompt and output, or fewer if there are none.
            max_tokens: maximum length, if that is less than `num_speculative_tokens`.
            stop_ids: tokens at which the draft ends.
        """
        context = list(context)
        tokens: list[int] = []
        probabilities: list[float] = []
        probability = (self._recent_accepted + PRIOR_COUNT) / (self._recent_expected + PRIOR_COUNT)
        while len(tokens) < min(max_tokens, self.num_speculative_tokens):
            counts = self._counts_after(context)
            if counts is None:
                break
            token, share = counts.top_token()
            probability *= share
            if token in stop_ids or probability < MIN_PROBABILITY:
                break
            tokens.append(token)
            probabilities.append(probability)
            context = [*context, token][-MAX_NGRAM:]
        return Draft(tuple(tokens), tuple(probabilities))

    def truncate_to_throughput(self, drafts: Sequence[Draft]) -> list[Draft]:
        """Truncate the drafts of a batch to the length with the best expected throughput.

        Every row of a step is as long as its longest draft.
        """
        rows = len(drafts)
        tokens, time = float(rows), 1 + ROW_COST * rows
        best_length, best_rate = 0, tokens / time
        for length in range(1, max(len(draft.tokens) for draft in drafts) + 1):
            tokens += sum(
                draft.probabilities[length - 1]
                for draft in drafts
                if len(draft.probabilities) >= length
            )
            time += TOKEN_COST * rows
            if tokens / time > best_rate:
                best_length, best_rate = length, tokens / time
        return [draft.truncate(best_length) for draft in drafts]

    def record_acceptance(self, drafts: Sequence[Draft], accepted: int) -> None:
        """Update the acceptance rate with the drafts of a step and the tokens accepted of them."""
        self.num_draft_tokens += sum(len(draft.tokens) for draft in drafts)
        self.num_accepted_tokens += accepted
        expected = sum(sum(draft.probabilities) for draft in drafts)
        self._recent_expected = ACCEPTANCE_DECAY * self._recent_expected + expected
        self._recent_accepted = ACCEPTANCE_DECAY * self._recent_accepted + accepted

    def update(self, tokens: Sequence[int], num_new: int) -> None:
        """Record the last `num_new` tokens as continuations of the n-grams that precede them."""
        if not self.num_speculative_tokens:
            return
        for index in range(max(len(tokens) - num_new, 0), len(tokens)):
            for ngram in _ngrams_at_end(tokens[max(index - MAX_NGRAM, 0) : index]):
                if ngram not in self._ngrams:
                    self._ngrams[ngram] = _NextTokenCounts()
                self._ngrams[ngram].add(tokens[index])
                self._ngrams.move_to_end(ngram)
        while len(self._ngrams) > MAX_NGRAMS:
            self._ngrams.popitem(last=False)

    def _counts_after(self, context: Sequence[int]) -> "_NextTokenCounts | None":
        """Counts after the longest n-gram that the context ends with; None: all are new."""
        for ngram in _ngrams_at_end(context):
            if ngram in self._ngrams:
                return self._ngrams[ngram]
        return None


class _NextTokenCounts:
    """How often tokens followed an n-gram; rare ones may be dropped."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.total = 0

    def add(self, token: int) -> None:
        if token not in self.counts and len(self.counts) == MAX_CONTINUATIONS:
            del self.counts[min(self.counts, key=self.counts.__getitem__)]
        self.counts[token] = self.counts.get(token, 0) + 1
        self.total += 1

    def top_token(self) -> tuple[int, float]:
        """The most frequent token and its probability, smoothed: 1/2 if it was seen once."""
        token = max(self.counts, key=self.counts.__getitem__)
        return token, self.counts[token] / (self.total + 1)


def _ngrams_at_end(tokens: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The n-grams that end with the last of these tokens, the longest first."""
    for length in range(min(MAX_NGRAM, len(tokens)), MIN_NGRAM - 1, -1):
        yield tuple(tokens[-length:])
