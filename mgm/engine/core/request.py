"""Requests to the engine and its answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mgm.data.images.loading import ImageSource, image_list
from mgm.data.images.orientation import check_orientation
from mgm.data.text.templates import IMAGE_MARKER
from mgm.engine.core.errors import RequestError
from mgm.engine.core.sampling_params import BAN, FORCE, SampledToken, SamplingParams
from mgm.engine.core.structured_output import StructuredOutput
from mgm.errors import MGMError

MAX_STOP_STRINGS = 32
MAX_STOP_LENGTH = 1000  # characters: the detokenizer searches for all of them at every token
MAX_TOP_LOGPROBS = 20
MAX_BEAMS = 32


@dataclass(frozen=True)
class Request:
    """A user message, with its images and the turns before it.

    Attributes:
        prompt: the user message.
        images: whatever `mgm.data.images.loading.open_image` opens: paths, URLs, base64, bytes,
            Pillow images, arrays; one alone needs no list. Without image markers
            (`<image>`) in the text they come before the first message; with markers, there is
            one marker for each image, in reading order.
        history: earlier turns, (user message, answer) each, the oldest first.
        max_new_tokens: maximum length of the answer, in tokens; the rest of the context length
            limits it too.
        temperature: softmax temperature; 0: greedy decoding.
        top_p: nucleus sampling: the smallest set of tokens whose probabilities reach this sum.
        seed: makes sampling repeatable; None: a random one.
        stop: strings that end the answer, besides the model's own stop tokens and strings; they
            are not part of it. At most `MAX_STOP_STRINGS`, of `MAX_STOP_LENGTH` characters each.
        top_k: sample from the k most probable tokens; 0: from all.
        min_p: sample from tokens at least this times as probable as the most probable one.
        repetition_penalty: above 1: tokens of prompt and answer are less likely.
        logprobs: return each token's log-probability, and this many most probable tokens with
            theirs; None: none.
        num_beams: beam width; above 1: beam search, without sampling, while other requests wait.
        max_seconds: time limit after which the answer ends with "length"; None: no limit.
        system: replaces the template's system prompt.
        raw: whether `prompt` is the complete prompt, image markers included; no template is
            applied to it.
        structured_output: constrains the answer, such as to JSON of a schema; None: any text.
        presence_penalty: penalty from -2 to 2, subtracted from the logits of tokens of the answer.
        frequency_penalty: penalty from -2 to 2, subtracted once for each of their occurrences.
        logit_bias: from -100 to 100, added to the logits of token ids. -100 bans a token; where
            tokens have 100, only those can be sampled.
        orientation: of the images, "upright" (EXIF orientation applied) or "stored"; None: the
            processor's setting.
        continues_text: whether the answer continues the prompt's text, so that both joined are
            the model's text; otherwise it starts a new text, for which tokenizers that drop
            the leading blank of a text drop the answer's.

    Raises:
        MGMError: a value is out of range, or images and markers do not match.
    """

    prompt: str
    images: Sequence[ImageSource] = ()
    history: Sequence[tuple[str, str]] = ()
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: Sequence[str] = ()
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logprobs: int | None = None
    num_beams: int = 1
    max_seconds: float | None = None
    system: str | None = None
    raw: bool = False
    structured_output: StructuredOutput | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    orientation: str | None = None
    continues_text: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", tuple(image_list(self.images)))
        for name in ("history", "stop"):
            value = getattr(self, name)
            _check(isinstance(value, list | tuple), name, value, "a list")
            object.__setattr__(self, name, tuple(value))
        _check(isinstance(self.prompt, str), "prompt", self.prompt, "a string")
        self._check_sampling()
        self._check_stop()
        self._check_limits()
        self._check_penalties()
        self._check_beams()
        _check(_is_text(self.system), "system", self.system, "a string, or None")
        if self.orientation is not None:
            check_orientation(self.orientation)
        continues = self.continues_text
        _check(isinstance(continues, bool), "continues_text", continues, "True or False")
        self._check_history()
        self._check_texts()
        self._check_markers()

    def _check_sampling(self) -> None:
        _check(_is_int(self.max_new_tokens, 1), "max_new_tokens", self.max_new_tokens, "1 or more")
        temperature = self.temperature
        _check(_is_number(temperature, 0, 100), "temperature", temperature, "from 0 to 100")
        top_p = _is_number(self.top_p, 0, 1) and self.top_p > 0
        _check(top_p, "top_p", self.top_p, "above 0 and up to 1")
        seed = self.seed is None or _is_int(self.seed, 0, 2**63 - 1)
        _check(seed, "seed", self.seed, "a whole number from 0 to 2**63 - 1, or None")
        _check(_is_int(self.top_k, 0), "top_k", self.top_k, "a whole number from 0")
        _check(_is_number(self.min_p, 0, 1), "min_p", self.min_p, "from 0 to 1")
        penalty = self.repetition_penalty
        _check(_is_number(penalty, 0.01, 100), "repetition_penalty", penalty, "from 0.01 to 100")

    def _check_limits(self) -> None:
        logprobs = self.logprobs is None or _is_int(self.logprobs, 0, MAX_TOP_LOGPROBS)
        valid = f"a whole number from 0 to {MAX_TOP_LOGPROBS}, or None"
        _check(logprobs, "logprobs", self.logprobs, valid)
        beams = self.num_beams
        _check(_is_int(beams, 1, MAX_BEAMS), "num_beams", beams, f"from 1 to {MAX_BEAMS}")
        seconds = self.max_seconds is None or _is_number(self.max_seconds, 0, 1e9)
        _check(seconds, "max_seconds", self.max_seconds, "a number of seconds, or None")

    def _check_history(self) -> None:
        if self.raw and (self.history or self.system is not None):
            raise MGMError(
                "a raw prompt is the whole text that the model gets; leave history and system out"
            )
        for number, turn in enumerate(self.history, start=1):
            pair = isinstance(turn, tuple | list) and len(turn) == 2
            if not pair or not all(isinstance(text, str) for text in turn):
                raise MGMError(
                    f"history, turn {number}: {turn!r:.80}; give a pair (question, answer)"
                )

    def _check_stop(self) -> None:
        _check(
            all(isinstance(text, str) and text for text in self.stop),
            "stop",
            list(self.stop),
            "a list of texts that are not empty",
        )
        if len(self.stop) > MAX_STOP_STRINGS:
            raise RequestError(
                f"stop has {len(self.stop)} texts; give {MAX_STOP_STRINGS} or fewer", "stop"
            )
        longest = max(map(len, self.stop), default=0)
        if longest > MAX_STOP_LENGTH:
            raise RequestError(
                f"stop has a text of {longest} characters; give {MAX_STOP_LENGTH} or fewer", "stop"
            )

    def _check_penalties(self) -> None:
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _check(_is_number(value, -2, 2), name, value, "from -2 to 2")
        biases = self.logit_bias
        _check(isinstance(biases, Mapping), "logit_bias", biases, "biases by token id")
        for token, value in biases.items():
            valid = f"token ids, and biases from {BAN:.0f} to {FORCE:.0f}"
            holds = _is_int(token, 0) and _is_number(value, BAN, FORCE)
            _check(holds, "logit_bias", {token: value}, valid)
        object.__setattr__(self, "logit_bias", {k: float(v) for k, v in biases.items()})
        _check(
            self.structured_output is None or isinstance(self.structured_output, StructuredOutput),
            "structured_output",
            self.structured_output,
            "a StructuredOutput, or None",
        )

    def _check_beams(self) -> None:
        """Refuse sampling parameters with beam search, which does not support them."""
        if self.num_beams == 1:
            return
        sampling = ("temperature", "logprobs", "presence_penalty", "frequency_penalty")
        changed = [name for name in sampling if getattr(self, name) not in (0, None)]
        changed += [name for name in ("logit_bias", "structured_output") if getattr(self, name)]
        changed += ["logprobs"] if self.logprobs == 0 else []
        changed += ["repetition_penalty"] if self.repetition_penalty != 1 else []
        if changed:
            raise MGMError(
                "num_beams above 1 is beam search, which does not sample; leave "
                f"{' and '.join(changed)} out"
            )

    def _check_texts(self) -> None:
        turns = [text for turn in self.history for text in turn]
        texts = {"prompt": [self.prompt], "system": [self.system or ""], "history": turns}
        for name, values in (texts | {"stop": self.stop}).items():
            for text in values:
                try:
                    text.encode()
                except UnicodeEncodeError as error:
                    raise RequestError(
                        f"{name} has a lone surrogate ({text[error.start]!r} at character "
                        f"{error.start}), which is not a character; leave it out",
                        name,
                    ) from error

    def _check_markers(self) -> None:
        markers = sum(text.count(IMAGE_MARKER) for text in self.questions)
        if markers != len(self.images) and (markers or self.raw):
            images = f"{len(self.images)} image{'' if len(self.images) == 1 else 's'}"
            raise MGMError(
                f"the text has {markers} {IMAGE_MARKER} but {images} came with it; give one image "
                f"for each {IMAGE_MARKER}, or leave the markers out to put all images first"
            )
        for index, (_, answer) in enumerate(self.history, start=1):
            if IMAGE_MARKER in answer:
                raise MGMError(
                    f"history, turn {index}: the answer contains {IMAGE_MARKER}, the marker of "
                    "a user's image; move it to a question"
                )

    @property
    def sampling_params(self) -> SamplingParams:
        """The fields that the sampler reads."""
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            logprobs=self.logprobs,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=self.logit_bias,
        )

    @property
    def questions(self) -> list[str]:
        """All user messages, the new one last."""
        return [question for question, _ in self.history] + [self.prompt]


@dataclass(frozen=True)
class Answer:
    """The output of the model for a request.

    Attributes:
        text: the answer.
        tokens: token ids of the answer, without the stop token.
        finish_reason: "stop" (a stop token or stop string), "length" (the token or time limit) or
            "cancelled" (by the client).
        prompt_tokens: tokens of the prompt, image positions included.
        cached_tokens: prompt tokens found in the prefix cache.
        sampled_tokens: the tokens with their texts, which joined are `text`, and with their
            log-probabilities, where `logprobs` is set. Those of a stop string are left out.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int = field(default=0, compare=False)
    sampled_tokens: tuple[SampledToken, ...] = field(default=(), repr=False, compare=False)


def _check(valid: bool, name: str, value: object, expected: str) -> None:
    if not valid:
        raise RequestError(f"{name} is {value!r:.80}; give {expected}", name)


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_int(value: object, minimum: int, maximum: int | None = None) -> bool:
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    return minimum <= value and (maximum is None or value <= maximum)


def _is_number(value: object, low: float, high: float) -> bool:
    # NaN compares as false with everything.
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
