"""What is asked, and what comes back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mgm.data.images.loading import ImageSource, image_list
from mgm.data.images.orientation import check_orientation
from mgm.data.text.templates import IMAGE_MARKER
from mgm.engine.core.errors import RequestError
from mgm.engine.core.sampling import BAN, FORCE, Choice, Sampling
from mgm.engine.core.structured_output import StructuredOutput
from mgm.errors import MGMError

MAX_STOPS = 32
MAX_STOP_LENGTH = 1000  # characters: all of them are looked for at every token
Exchange = tuple[str, str]  # a question and its answer


@dataclass(frozen=True)
class Request:
    """A question, with its images and the exchanges before it.

    Attributes:
        prompt: the question.
        images: whatever `mgm.data.images.loading.open_image` opens: paths, URLs, base64, bytes,
            Pillow images, arrays; one alone needs no list. Without image markers
            (`<image>`) in the text they come before the first question; with markers, there is
            one marker for each image, in reading order.
        history: earlier questions and answers, the oldest first.
        max_new_tokens: the longest answer, in tokens. The room that is left in the model's context
            limits it too.
        temperature: 0 always takes the likeliest token; larger values draw more freely.
        top_p: when drawing, only from the likeliest tokens that together reach this probability.
        seed: makes drawing repeatable; None: drawn anew every time.
        stop: texts that end the answer, besides those of the model; they are not part of it. At
            most `MAX_STOPS`, of `MAX_STOP_LENGTH` characters each.
        top_k: when drawing, only from so many of the likeliest tokens; 0: from all.
        min_p: when drawing, only from tokens at least this times as probable as the likeliest.
        repetition_penalty: above 1: tokens that were there already are less likely.
        logprobs: tell the logarithm of every token's probability, and so many likeliest tokens
            with theirs; None: tell none.
        num_beams: above 1: the likeliest answer by beam search; nothing is drawn, and others wait.
        max_seconds: after which the answer ends as if it were full; None: there is no limit.
        system: replaces the template's system text.
        raw: whether the prompt is the text that the model reads, with its markers, and no question.
        structured_output: what form the answer has, such as JSON of a schema; None: any.
        presence_penalty: from -2 to 2, taken off the logits of tokens that are in the answer.
        frequency_penalty: from -2 to 2, the same, times how often they are.
        logit_bias: from -100 to 100, added to the logits of tokens, by their ids. -100 bans a
            token; if any has 100, only those that have it are chosen.
        orientation: of the images, "upright" (as EXIF data says) or "stored"; None: as the
            processor has it.
        continues_text: whether the answer goes on with the prompt's text, so that both joined are
            what the model wrote; else it begins anew, and tokenizers that leave out the blank
            before a text leave out the answer's.

    Raises:
        MGMError: a value is out of range, or images and markers do not match.
    """

    prompt: str
    images: Sequence[ImageSource] = ()
    history: Sequence[Exchange] = ()
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
            _demand(isinstance(value, list | tuple), name, value, "a list")
            object.__setattr__(self, name, tuple(value))
        _demand(isinstance(self.prompt, str), "prompt", self.prompt, "a text")
        _demand(_whole(self.max_new_tokens, 1), "max_new_tokens", self.max_new_tokens, "1 or more")
        _demand(_within(self.temperature, 0, 100), "temperature", self.temperature, "from 0 to 100")
        _demand(
            _within(self.top_p, 0, 1) and self.top_p > 0, "top_p", self.top_p, "above 0 and up to 1"
        )
        _demand(
            self.seed is None or (_whole(self.seed, 0) and self.seed < 2**63),
            "seed",
            self.seed,
            "a whole number from 0 to 2**63 - 1, or None",
        )
        self._check_stop()
        _demand(_whole(self.top_k, 0), "top_k", self.top_k, "a whole number from 0")
        _demand(_within(self.min_p, 0, 1), "min_p", self.min_p, "from 0 to 1")
        penalty = self.repetition_penalty
        _demand(_within(penalty, 0.01, 100), "repetition_penalty", penalty, "from 0.01 to 100")
        _demand(
            self.logprobs is None or (_whole(self.logprobs, 0) and self.logprobs <= 20),
            "logprobs",
            self.logprobs,
            "a whole number from 0 to 20, or None",
        )
        beams = self.num_beams
        _demand(_whole(beams, 1) and beams <= 32, "num_beams", beams, "from 1 to 32")
        _demand(
            self.max_seconds is None or _within(self.max_seconds, 0, 1e9),
            "max_seconds",
            self.max_seconds,
            "a number of seconds, or None",
        )
        self._check_adjustments()
        text = self.system is None or isinstance(self.system, str)
        _demand(text, "system", self.system, "a text, or None")
        if self.orientation is not None:
            check_orientation(self.orientation)
        goes_on = self.continues_text
        _demand(isinstance(goes_on, bool), "continues_text", goes_on, "True or False")
        if self.raw and (self.history or self.system is not None):
            raise MGMError("a raw prompt is all that the model reads; leave history and system out")
        for index, exchange in enumerate(self.history, start=1):
            pair = isinstance(exchange, tuple | list) and len(exchange) == 2
            if not pair or not all(isinstance(text, str) for text in exchange):
                raise MGMError(
                    f"history, exchange {index}: {exchange!r:.80}; give a pair (question, answer)"
                )
        self._check_texts()
        self._check_markers()

    def _check_stop(self) -> None:
        _demand(
            all(isinstance(text, str) and text for text in self.stop),
            "stop",
            list(self.stop),
            "a list of texts that are not empty",
        )
        if len(self.stop) > MAX_STOPS:
            raise RequestError(
                f"stop has {len(self.stop)} texts; give {MAX_STOPS} or fewer", "stop"
            )
        longest = max(map(len, self.stop), default=0)
        if longest > MAX_STOP_LENGTH:
            raise RequestError(
                f"stop has a text of {longest} characters; give {MAX_STOP_LENGTH} or fewer", "stop"
            )

    def _check_adjustments(self) -> None:
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _demand(_within(value, -2, 2), name, value, "from -2 to 2")
        bias = self.logit_bias
        _demand(isinstance(bias, Mapping), "logit_bias", bias, "biases by token id")
        for token, value in bias.items():
            valid = f"ids of tokens, and biases from {BAN:.0f} to {FORCE:.0f}"
            holds = _whole(token, 0) and _within(value, BAN, FORCE)
            _demand(holds, "logit_bias", {token: value}, valid)
        object.__setattr__(self, "logit_bias", {k: float(v) for k, v in bias.items()})
        form = self.structured_output
        _demand(
            form is None or isinstance(form, StructuredOutput),
            "structured_output",
            form,
            "a StructuredOutput, or None",
        )
        if self.num_beams > 1:
            sampling = ("temperature", "logprobs", "presence_penalty", "frequency_penalty")
            changed = [name for name in sampling if getattr(self, name) not in (0, None)]
            changed += [name for name in ("logit_bias", "structured_output") if getattr(self, name)]
            changed += ["logprobs"] if self.logprobs == 0 else []
            changed += ["repetition_penalty"] if self.repetition_penalty != 1 else []
            if changed:
                raise MGMError(
                    "num_beams looks for the likeliest answer as a whole; leave "
                    f"{' and '.join(changed)} out"
                )

    def _check_texts(self) -> None:
        exchanges = [text for exchange in self.history for text in exchange]
        texts = {"prompt": [self.prompt], "system": [self.system or ""], "history": exchanges}
        for name, values in (texts | {"stop": self.stop}).items():
            for text in values:
                try:
                    text.encode()
                except UnicodeEncodeError as error:
                    raise RequestError(
                        f"{name} holds half a surrogate pair ({text[error.start]!r} at character "
                        f"{error.start}), which is no character; leave it out",
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
                    f"history, exchange {index}: the answer holds {IMAGE_MARKER}, which stands for "
                    "an image of the user; put it into the question"
                )

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen."""
        return Sampling(
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
        """All questions, the new one last."""
        return [question for question, _ in self.history] + [self.prompt]


@dataclass(frozen=True)
class Answer:
    """What a model says to a request.

    Attributes:
        text: the answer.
        tokens: the token ids that the model wrote, the one that ended the answer not included.
        finish_reason: "stop" (the model or a stop text ended it), "length" (the limit did) or
            "cancelled" (the reader did).
        prompt_tokens: positions that the prompt took, those of images included.
        cached_tokens: how many of them were known from earlier requests.
        choices: the tokens with their texts, which joined are `text`, and their probabilities,
            where `logprobs` asked for these. Those of a stop text are left out.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int = field(default=0, compare=False)
    choices: tuple[Choice, ...] = field(default=(), repr=False, compare=False)


def _demand(holds: bool, name: str, found: object, valid: str) -> None:
    if not holds:
        raise RequestError(f"{name} is {found!r:.80}; give {valid}", name)


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _within(value: object, low: float, high: float) -> bool:
    # Not a number compares as false with everything.
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
