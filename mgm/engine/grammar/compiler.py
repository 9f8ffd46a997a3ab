"""Structured output: grammars that say which tokens may come next, by llguidance."""

import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

from mgm.engine.core.structured_output import MAX_WHITESPACE, StructuredOutput
from mgm.engine.core.token_bytes import TokenBytes
from mgm.engine.grammar import check
from mgm.errors import MGMError, one_line

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_COMPILED = 64  # grammars that are kept
MAX_SECONDS = 10  # that compiling one may take
MAX_LEXER_STATES = 50_000  # of one, up to 2 kB each
_COMPLETE = ("NoExtension", "NoExtensionBias", "EndOfSentence")  # reasons of llguidance


class Grammar:
    """Where in a grammar an answer is.

    Args:
        matcher: of llguidance, at the answer's beginning.
        stop_ids: tokens that end an answer; they are allowed where the grammar may end.
    """

    def __init__(self, matcher: "LLMatcher", stop_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._stop_ids = stop_ids

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
            reason = one_line(matcher.get_error())[:200] or matcher.stop_reason()
            raise MGMError(f"structured_output: the grammar cannot go on ({reason})")


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
        self._tokenizers: dict[frozenset[int], LLTokenizer] = {}
        self._compiled: OrderedDict[tuple[str, frozenset[int]], LLMatcher] = OrderedDict()

    def compile(self, form: StructuredOutput, stop_ids: frozenset[int]) -> Grammar:
        """The grammar of a form, at its beginning.

        Args:
            form: of the answer.
            stop_ids: tokens that end it.

        Raises:
            MGMError: it is no schema, regular expression or grammar, it is too complex, nothing can
                match it, or llguidance is not installed.
        """
        key = form.key, stop_ids
        with self._lock:
            matcher = self._compiled.get(key)
            if matcher is not None:
                self._compiled.move_to_end(key)
        if matcher is None:
            matcher = self._compile(form, stop_ids)
            with self._lock:
                self._compiled[key] = matcher
                while len(self._compiled) > MAX_COMPILED:
                    self._compiled.popitem(last=False)
        return Grammar(matcher.deep_copy(), stop_ids)

    def _compile(self, form: StructuredOutput, stop_ids: frozenset[int]) -> "LLMatcher":
        try:
            from llguidance import LLMatcher, LLParserLimits
        except ImportError as error:
            raise MGMError(
                "structured output needs llguidance; install the extra: "
                "pip install 'mgm[structured]'"
            ) from error
        try:
            definition = _definition(form)
            if form.kind != "choice":  # which has no recursion
                _check(definition)
            limits = LLParserLimits(verbose_errors=False, max_lexer_states=MAX_LEXER_STATES)
            matcher = LLMatcher(self._tokenizer(stop_ids), definition, log_level=0, limits=limits)
            # The first mask is made here, in the requester's time.
            mask = b"" if matcher.is_error() else matcher.compute_bitmask()
            fault = matcher.get_error() if matcher.is_error() else ""
        except (ValueError, RecursionError) as error:
            mask, fault = b"", str(error) or type(error).__name__
        if fault or not any(mask):
            reason = one_line(fault)[:300] or "nothing matches it"
            raise MGMError(f"structured_output.{form.kind} cannot be used ({reason}); correct it")
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
    """A vocabulary as llguidance takes it: see its `TokenizerWrapper`."""

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
        self._vocabulary = vocabulary
        self._ids = {
            text: token for token, text in enumerate(self.tokens) if text and token not in special
        }
        self._longest = max(map(len, self._ids), default=1)

    def __call__(self, text: str | bytes) -> list[int]:
        """The tokens that the model itself would take for a text in the middle of an answer."""
        content = text.encode() if isinstance(text, str) else text
        try:
            ids = self._vocabulary.tokenizer.encode(content.decode(), add_special_tokens=False)
        except UnicodeDecodeError:
            ids = []
        # Sentencepiece puts a blank before a text, and normalizers change it.
        made = b"".join(self.tokens[token] for token in ids if token < len(self.tokens))
        return ids if made == content else self._longest_first(content)

    def _longest_first(self, content: bytes) -> list[int]:
        ids, start = [], 0
        while start < len(content):
            ends = range(min(start + self._longest, len(content)), start, -1)
            end = next((end for end in ends if content[start:end] in self._ids), 0)
            if not end:
                break  # no token begins in this way
            ids.append(self._ids[content[start:end]])
            start = end
        return ids


def _definition(form: StructuredOutput) -> str:
    """A form in llguidance's own words.

    Raises:
        ValueError: it is malformed.
    """
    from llguidance import LLMatcher, grammar_from

    if form.regex is not None:
        return LLMatcher.grammar_from_regex(form.regex)
    if form.choice is not None:
        return grammar_from("choice", json.dumps(form.choice))
    if form.grammar is not None:
        return grammar_from("grammar", form.grammar)
    schema = {"type": "object"} if form.json is None else json.loads(str(form.json))
    if form.disable_additional_properties:
        schema = _closed(schema)
    pattern = form.whitespace_pattern or rf"[\x20\x0A\x0D\x09]{{1,{MAX_WHITESPACE}}}"
    if form.disable_any_whitespace:
        return LLMatcher.grammar_from_json_schema(
            json.dumps(schema), overrides={"whitespace_flexible": False}
        )
    return LLMatcher.grammar_from_json_schema(
        json.dumps(schema), overrides={"whitespace_pattern": pattern}
    )


def _closed(schema: Any) -> Any:
    """A schema whose objects have no properties but those that it names."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(one) for name, one in schema.items()}
    if "properties" in closed or "patternProperties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


def _check(definition: str) -> None:
    """Compile a definition in a process of its own, which it may crash or keep busy.

    Raises:
        ValueError: it does, or it is wrong.
    """
    try:
        checked = subprocess.run(
            [sys.executable, "-I", check.__file__],
            input=definition.encode(),
            capture_output=True,
            timeout=MAX_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"it takes more than {MAX_SECONDS} seconds to compile") from error
    if checked.returncode:
        raise ValueError("its rules or references are nested too deeply")
    if checked.stdout:
        raise ValueError(checked.stdout.decode(errors="replace"))
