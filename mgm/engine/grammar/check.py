"""A program that compiles a grammar where it can do no harm: in a process with a small stack.

llguidance follows rules and references by recursion: a long chain of them overflows the stack,
which ends the process. What passes here passes in a thread with the usual, larger stack. Run by its
path, it imports nothing of this package: the definition comes on standard input, what is wrong with
it leaves on standard output.
"""

import sys
import threading
from typing import Any

STACK = 2**21  # bytes: a quarter of what a thread usually has


class _Bytes:
    """A vocabulary of all bytes, as llguidance takes it."""

    is_tokenizer_wrapper = True
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")
    special_token_ids = (256,)
    eos_token_id = 256
    bos_token_id = None

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def _check() -> None:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    vocabulary: Any = _Bytes()
    limits = LLParserLimits(verbose_errors=False)
    matcher = LLMatcher(LLTokenizer(vocabulary), sys.stdin.read(), log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        sys.stdout.write(matcher.get_error())


if __name__ == "__main__":
    threading.stack_size(STACK)
    thread = threading.Thread(target=_check)
    thread.start()
    thread.join()
