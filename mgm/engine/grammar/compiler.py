"""Grammar compiler: constraints of structured output to token bitmasks, by llguidance."""

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

MAX_COMPILED = 16  # grammars in the cache, each with up to 15 MB of states
MAX_COMPILED_LENGTH = 2**18  # characters of all of their definitions
MAX_COMPILE_SECONDS = 20  # wall-clock time to compile one, of which check.CPU_SECONDS of CPU time
MAX_COMPILE_WAIT = 30  # seconds, while others are compiled
# Limits of llguidance for one grammar, at any step. The cost of a step grows with the square of its
# Earley items where the grammar is ambiguous. Schemas are not, and each optional property takes
# four items.
_LIMITS = {"max_lexer_states": 20_000, "max_grammar_size": 100_000, "verbose_errors": False}
_JSON_LIMITS = _LIMITS | {"max_items_in_row": 8000}
_GRAMMAR_LIMITS = _LIMITS | {"max_items_in_row": 600, "step_max_items": 10_000}
_Key = tuple[str, frozenset[int]]  # key of the constraint, stop tokens
_COMPLETE = ("NoExtension", "NoExtensionBias", "EndOfSentence")  # llguidance's stop reasons


class Grammar:
    """Grammar state of one sequence.

    Args:
        matcher: matcher of llguidance in its initial state.
        stop_ids: stop tokens, which are allowed where the grammar may end.
        on_error: called when the grammar cannot continue.
    """

    def __init__(
        self, matcher: "LLMatcher", stop_ids: frozenset[int], on_error: Callable[[], object]
    ) -> None:
        self._matcher = matcher
        self._stop_ids = stop_ids
        self._on_error = on_error

    @property
    def complete(self) -> bool:
        """Whether the output is complete, so that only a stop token is allowed next."""
        return self._matcher.is_stopped()

    def bitmask(self) -> bytes:
        """One bit per token of the vocabulary, lowest bit first: whether it is allowed next.

        Raises:
            MGMError: the grammar cannot continue.
        """
        mask = self._matcher.compute_bitmask()
        self._check()
        return mask

    def accept(self, token: int) -> None:
        """Advance by a token.

        Raises:
            MGMError: the grammar cannot continue.
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
                f"structured_output: the grammar cannot continue ({reason})", "structured_output"
            )


class GrammarCompiler:
    """Compiles grammars for a vocabulary, with an LRU cache; thread-safe.

    Args:
        vocabulary: the bytes of its tokens.
        size: only token ids below it can be sampled.
    """

    def __init__(self, vocabulary: TokenBytes, size: int) -> None:
        self._vocabulary = vocabulary
        self._size = size
        self._lock = Lock()
        self._compiling = Lock()  # one at a time: compiling may keep a core busy
        self._tokenizers: dict[frozenset[int], LLTokenizer] = {}
        self._compiled: OrderedDict[_Key, LLMatcher] = OrderedDict()

    def compile(self, constraint: StructuredOutput, stop_ids: frozenset[int]) -> Grammar:
        """Compile a constraint to a grammar in its initial state, or take it from the cache.

        Args:
            constraint: constraint on the answer.
            stop_ids: stop tokens.

        Raises:
            MGMError: the constraint is not a valid schema, regular expression or grammar, is too
                complex, or matches nothing, or llguidance is not installed.
            EngineBusyError: compiling others takes too long.
        """
        key = constraint.key, stop_ids
        matcher = self._cached(key)
        if matcher is None and constraint.is_cheap:
            matcher = self._compile(constraint, stop_ids)
            self._keep(key, matcher)
        elif matcher is None:
            if not self._compiling.acquire(timeout=MAX_COMPILE_WAIT):
                raise EngineBusyError(
                    f"structured_output.{constraint.kind}: others were still being compiled after "
                    f"{MAX_COMPILE_WAIT} seconds; try again later"
                )
            try:
                matcher = self._cached(key)  # another thread may have compiled it
                if matcher is None:
                    matcher = self._compile(constraint, stop_ids)
                    self._keep(key, matcher)
            finally:
                self._compiling.release()
        # Copies share the lexer's states: when these are too many, the grammar is compiled again.
        return Grammar(matcher.deep_copy(), stop_ids, partial(self._forget, key, matcher))

    def _cached(self, key: _Key) -> "LLMatcher | None":
        with self._lock:
            if key in self._compiled:
                self._compiled.move_to_end(key)
            return self._compiled.get(key)

    def _keep(self, key: _Key, matcher: "LLMatcher") -> None:
        with self._lock:
            self._compiled[key] = matcher
            length = sum(len(definition) for definition, _ in self._compiled)
            while len(self._compiled) > MAX_COMPILED or length > MAX_COMPILED_LENGTH:
                (definition, _), _ = self._compiled.popitem(last=False)
                length -= len(definition)

    def _forget(self, key: _Key, matcher: "LLMatcher") -> None:
        with self._lock:
            if self._compiled.get(key) is matcher:
                del self._compiled[key]

    def _compile(self, constraint: StructuredOutput, stop_ids: frozenset[int]) -> "LLMatcher":
        try:
            from llguidance import LLMatcher, LLParserLimits
        except ImportError as error:
            raise MGMError(
                "structured output needs llguidance; install the extra: "
                "pip install 'mgm[structured]'"
            ) from error
        try:
            definition = definition_of(constraint)
            is_grammar = constraint.kind == "grammar"
            limits: dict[str, Any] = _GRAMMAR_LIMITS if is_grammar else _JSON_LIMITS
            if not constraint.is_cheap:
                _check(definition, limits)
            matcher = LLMatcher(
                self._tokenizer(stop_ids),
                definition,
                log_level=0,
                limits=LLParserLimits(**limits),
            )
            # The first bitmask is computed here, not in the engine thread.
            mask = b"" if matcher.is_error() else matcher.compute_bitmask()
            message = matcher.get_error() if matcher.is_error() else ""
        except (ValueError, RecursionError) as error:
            mask, message = b"", str(error) or type(error).__name__
        if message or not any(mask):
            reason = _reason(message)[:300]
            if not reason or reason.startswith("NoExtension"):
                reason = "nothing matches it"
            raise RequestError(
                f"structured_output.{constraint.kind} cannot be used ({reason}); correct it",
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
    """Vocabulary with the attributes of llguidance's `TokenizerWrapper`.

    It cannot tokenize text, which no definition needs: forced text may be generated with any
    tokens but special ones.
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
    """An error message of llguidance in one line."""
    return "it is too large" if error.startswith("panic:") else one_line(error)


def _check(definition: str, limits: Mapping[str, Any]) -> None:
    """Compile a definition in a subprocess first, to survive crashes and endless compilation.

    Raises:
        ValueError: the definition is invalid, too complex, or crashed the subprocess.
    """
    try:
        checked = subprocess.run(
            [sys.executable, "-I", check.__file__],
            input=json.dumps([definition, limits]).encode(),
            capture_output=True,
            timeout=MAX_COMPILE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"it takes more than {MAX_COMPILE_SECONDS} seconds to compile") from error
    if checked.returncode == -getattr(signal, "SIGXCPU", 0):
        raise ValueError(f"it takes more than {check.CPU_SECONDS} seconds to compile")
    if checked.returncode:
        raise ValueError("it is nested too deeply, or it needs too much memory")
    if checked.stdout:
        raise ValueError(checked.stdout.decode(errors="replace"))
