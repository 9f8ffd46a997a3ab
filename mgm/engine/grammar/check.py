"""A program that compiles a grammar where it can do no harm: in a process with a small stack.

llguidance follows rules and references by recursion: a long chain of them overflows the stack,
which ends the process, as does too much memory or time. What passes here passes in a thread with
the usual, larger stack. Run by its path, it imports nothing of this package: the definition and
its limits come on standard input, what is wrong with it leaves on standard output.
"""

import json
import mmap
import sys
import threading
from pathlib import Path
from typing import Any

STACK = 2**21  # bytes: a quarter of what a thread usually has
MEMORY = 2**30  # bytes of addresses, those of the interpreter included
CPU_SECONDS = 2
MAX_GROWTH = 2**24  # bytes that a compiled grammar may take: several are kept


class _Bytes:
    """A vocabulary of all bytes, as llguidance takes it."""

    is_tokenizer_wrapper = True
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")
    special_token_ids = (256,)
    eos_token_id = 256
    bos_token_id = None


def _check() -> None:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    definition, limits = json.load(sys.stdin)
    vocabulary: Any = _Bytes()
    tokenizer, before = LLTokenizer(vocabulary), _memory()
    matcher = LLMatcher(tokenizer, definition, log_level=0, limits=LLParserLimits(**limits))
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        sys.stdout.write(matcher.get_error())
    elif _memory() - before > MAX_GROWTH:
        sys.stdout.write("it needs too much memory")


def _memory() -> int:
    """Bytes of memory that this process has; 0 where the system does not say."""
    try:
        # Not getrusage: its peak is that of the process that started this one, where it was larger.
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * mmap.PAGESIZE
    except OSError:  # it is no Linux
        return 0


def _limit_resources() -> None:
    """Limit memory and processor time, where the system can."""
    try:
        import resource
    except ImportError:  # on Windows
        return
    for kind, limit in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, CPU_SECONDS)):
        try:
            # A second more, or the process would be killed without saying that it was for its time.
            resource.setrlimit(kind, (limit, limit + (kind == resource.RLIMIT_CPU)))
        except (ValueError, OSError):  # it is lower already, or macOS has none
            continue


if __name__ == "__main__":
    _limit_resources()
    threading.stack_size(STACK)
    thread = threading.Thread(target=_check)
    thread.start()
    thread.join()
