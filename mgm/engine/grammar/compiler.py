"""Structured output: grammars that say which tokens may come next, by llguidance."""

import json
import signal
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from mgm.engine.core.errors import EngineBusyError, RequestError
from mgm.engine.core.structured_output import StructuredOutput
from mgm.engine.core.token_bytes import TokenBytes
from mgm.engine.grammar import check
from mgm.engine.grammar.definition import definition_of
from mgm.errors import MGMError, one_line

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_COMPILED = 16  # grammars that are kept, each with up to 15 MB of states
MAX_COMPILED_LENGTH = 2**18  # characters of all of their definitions
MAX_SECONDS = 20  # that compiling one may take, of which check.CPU_SECONDS on a processor
MAX_WAIT = 30  # seconds, for others that are being compiled
# Of llguidance: what one grammar may cost, at any step of an answer. The cost of a step grows with
# the square of its items where they are ambiguous. A schema's are not, and each optional property
# takes four.
_LIMITS = {"max_lexer_states": 20_000, "max_grammar_size": 100_000, "verbose_errors": False}
_JSON_LIMITS = _LIMITS | {"max_items_in_row": 8000}
_GRAMMAR_LIMITS = _LIMITS | {"max_items_in_row": 600, "step_max_items": 10_000}
_Key = tuple[str, frozenset[int]]  # a form's key, and the tokens that end an answer
_COMPLETE = ("NoExtension", "NoExtensionBias", "EndOfSentence")  # reasons of llguidance


class Grammar:
    """Where in a grammar an answer is.

    Args:
        matcher: of llguidance, at the answer's beginning.
        stop_ids: tokens that end an answer; they are allowed where the grammar may end.
        on_error: called when the grammar cannot go on.
    """

    def __init__(
        self, matcher: "LLMatcher", stop_ids: frozenset[int], on_error: Callable[[], object]
    ) -> None:
        self._matcher = matcher
        self._stop_ids = stop_ids
        self._on_error = on_error

    @property
    def complete(self) -> bool:
        """Whether nothing but the end may come."""
        return self._matcher.is_stopped()

    def allowed(self) -> bytes:
        """A bit for each token of the vocabulary, the first lowest: whether it may come next.

        Raises:
            MGMError: the grammar cannot go on.
        """
        mask = self._matcher.compute_bitmask()
        self._check()
        return mask

    def accept(self, token: int) -> None:
        """Go on behind a token.

        Raises:
            MGMError: the grammar cannot go on.
        """
        if token not in self._stop_ids:
            self._matcher.consume_token(token)
            self._check()

    def _check(self) -> None:
        matcher = self._matcher
        if matcher.is_error() or (matcher.is_stopped() and matcher.stop_reason() not in _COMPLETE):
            self._on_error()
            reason = _reason(matcher.get_error())[:200] or matcher.stop_reason()
            raise RequestError(
                f"structured_output: the grammar cannot go on ({reason})", "structured_output"
            )


class GrammarCompiler:
    """Compiles grammars for a vocabulary; an LRU cache keeps them. Threads may share it.

    Args:
        vocabulary: the bytes of its tokens.
        size: ids of it that may be chosen.
    """

    def __init__(self, vocabulary: TokenBytes, size: int) -> None:
        self._vocabulary = vocabulary
        self._size = size
        self._lock = Lock()
        self._compiling = Lock()  # held by the one that compiles: it may take all of a core
        self._tokenizers: dict[frozenset[int], LLTokenizer] = {}
        self._compiled: OrderedDict[_Key, LLMatcher] = OrderedDict()

    def compile(self, form: StructuredOutput, stop_ids: frozenset[int]) -> Grammar:
        """The grammar of a form, at its beginning.

        Args:
            form: of the answer.
            stop_ids: tokens that end it.

        Raises:
            MGMError: it is no schema, regular expression or grammar, it is too complex, nothing can
                match it, or llguidance is not installed.
            EngineBusyError: others take too long.
        """
        key = form.key, stop_ids
        matcher = self._cached(key)
        if matcher is None and form.is_cheap:
            matcher = self._compile(form, stop_ids)
            self._keep(key, matcher)
        elif matcher is None:
            if not self._compiling.acquire(timeout=MAX_WAIT):
                raise EngineBusyError(
                    f"structured_output.{form.kind}: others were still being compiled after "
                    f"{MAX_WAIT} seconds; try again later"
                )
            try:
                matcher = self._cached(key)  # another may have had the same form
                if matcher is None:
                    matcher = self._compile(form, stop_ids)
                    self._keep(key, matcher)
            finally:
                self._compiling.release()
        # Copies share the lexer's states: when these are too many, all need a new one.
        return Grammar(matcher.deep_copy(), stop_ids, partial(self._forget, key, matcher))

    def _cached(self, key: _Key) -> "LLMatcher | None":
        with self._lock:
            if key in self._compiled:
                self._compiled.move_to_end(key)
            return self._compiled.get(key)

    def _keep(self, key: _Key, matcher: "LLMatcher") -> None:
        with self._lock:
            self._compiled[key] = matcher
            length = sum(len(form) for form, _ in self._compiled)
            while len(self._compiled) > MAX_COMPILED or length > MAX_COMPILED_LENGTH:
                (form, _), _ = self._compiled.popitem(last=False)
                length -= len(form)

    def _forget(self, key: _Key, matcher: "LLMatcher") -> None:
        with self._lock:
            if self._compiled.get(key) is matcher:
                del self._compiled[key]

    def _compile(self, form: StructuredOutput, stop_ids: frozenset[int]) -> "LLMatcher":
        try:
            from llguidance import LLMatcher, LLParserLimits
        except ImportError as error:
            raise MGMError(
                "structured output needs llguidance; install the extra: "
                "pip install 'mgm[structured]'"
            ) from error
        try:
            definition = definition_of(form)
            limits: dict[str, Any] = _GRAMMAR_LIMITS if form.kind == "grammar" else _JSON_LIMITS
            if not form.is_cheap:
                _check(definition, limits)
            matcher = LLMatcher(
                self._tokenizer(stop_ids),
                definition,
                log_level=0,
                limits=LLParserLimits(**limits),
            )
            # The first mask is made here, in the requester's time.
            mask = b"" if matcher.is_error() else matcher.compute_bitmask()
            fault = matcher.get_error() if matcher.is_error() else ""
        except (ValueError, RecursionError) as error:
            mask, fault = b"", str(error) or type(error).__name__
        if fault or not any(mask):
            reason = _reason(fault)[:300]
            if not reason or reason.startswith("NoExtension"):
                reason = "nothing matches it"
            raise RequestError(
                f"structured_output.{form.kind} cannot be used ({reason}); correct it",
                "structured_output",
            )
        return matcher

    def _tokenizer(self, stop_ids: frozenset[int]) -> "LLTokenizer":
        with self._lock:
            if stop_ids not in self._tokenizers:
                from llguidance import LLTokenizer

                ends = sorted(token for token in stop_ids if token < self._size)
                wrapped: Any = _Tokens(self._vocabulary, self._size, ends)
                self._tokenizers[stop_ids] = LLTokenizer(wrapped, self._size, ends or None)
            return self._tokenizers[stop_ids]


class _Tokens:
    """A vocabulary as llguidance takes it: see its `TokenizerWrapper`.

    It cannot be called, for no definition lets text be turned into tokens: the model may write a
    text in any tokens but special ones.
    """

    is_tokenizer_wrapper = True

    def __init__(self, vocabulary: TokenBytes, size: int, ends: Sequence[int]) -> None:
        special = {token for token in range(size) if vocabulary.is_special(token)} | set(ends)
        self.special_token_ids = sorted(special)
        self.tokens = [
            vocabulary.name(token).encode() if token in special else vocabulary.of(token)
            for token in range(size)
        ]
        self.eos_token_id = ends[0] if ends else vocabulary.tokenizer.eos_token_id
        self.bos_token_id = vocabulary.tokenizer.bos_token_id


def _reason(error: str) -> str:
    """What llguidance says, in one line."""
    return "it is too large" if error.startswith("panic:") else one_line(error)


def _check(definition: str, limits: Mapping[str, Any]) -> None:
    """Compile a definition in a process of its own, which it may crash or keep busy.

    Raises:
        ValueError: it does, or it is wrong.
    """
    try:
        checked = subprocess.run(
            [sys.executable, "-I", check.__file__],
            input=json.dumps([definition, limits]).encode(),
            capture_output=True,
            timeout=MAX_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"it takes more than {MAX_SECONDS} seconds to compile") from error
    if checked.returncode == -getattr(signal, "SIGXCPU", 0):
        raise ValueError(f"it takes more than {check.CPU_SECONDS} seconds to compile")
    if checked.returncode:
        raise ValueError("it is nested too deeply, or it needs too much memory")
    if checked.stdout:
        raise ValueError(checked.stdout.decode(errors="replace"))
