"""Subprocess that compiles a grammar first, with a small stack and limited memory and time.

llguidance follows rules and references by recursion: a long chain of them overflows the stack,
which kills the process, as does too much memory or time. A grammar that compiles here also compiles
in a thread with the usual, larger stack. This file is run by its path and imports nothing of the
package: it reads the definition and its limits from standard input, and writes an error message to
standard output.
"""

import json
import mmap
import sys
import threading
from pathlib import Path
from typing import Any

STACK = 2**21  # bytes: a quarter of a thread's usual stack
MEMORY = 2**30  # bytes of address space, the interpreter's included
CPU_SECONDS = 2
MAX_GROWTH = 2**24  # bytes of one compiled grammar: the cache keeps several


class _Bytes:
    """Vocabulary of single bytes with the attributes of llguidance's `TokenizerWrapper`."""

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
    """Resident memory of this process in bytes; 0 where it is not known."""
    try:
        # Not getrusage: its peak includes that of the parent process.
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * mmap.PAGESIZE
    except OSError:  # not Linux
        return 0


def _limit_resources() -> None:
    """Limit memory and CPU time, where the system can."""
    try:
        import resource
    except ImportError:  # on Windows
        return
    for kind, limit in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, CPU_SECONDS)):
        try:
            # The hard limit is a second later: at the soft one the exit status is SIGXCPU.
            resource.setrlimit(kind, (limit, limit + (kind == resource.RLIMIT_CPU)))
        except (ValueError, OSError):  # the limit is lower already, or macOS does not support it
            continue


if __name__ == "__main__":
    _limit_resources()
    threading.stack_size(STACK)
    thread = threading.Thread(target=_check)
    thread.start()
    thread.join()
