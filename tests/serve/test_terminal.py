"""The chat program as a process: in a terminal and in a pipe."""

import os
import re
import select
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.preloaded import PYTHON
from tests.tiny_model import build

pty = pytest.importorskip("pty", reason="there are no such terminals here")

pytestmark = pytest.mark.process
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 90.0  # seconds; a busy machine takes long to import torch


def command(*options):
    return [PYTHON, "-m", "mgm.serve.cli", *map(str, options)]


class Terminal:
    """A program in a pseudo-terminal, with timestamps of its output."""

    def __init__(self, *arguments):
        self.screen = ""
        self.reads = []  # terminal output after each question
        self.process, self.descriptor = pty.fork()
        if self.process == 0:
            os.chdir(ROOT)
            # A history file of its own, not the user's.
            os.environ["HOME"] = tempfile.mkdtemp()
            os.execv(arguments[0], arguments)

    def read_until(self, pattern, start=0):
        """Read until `pattern` is in the output after `start`; returns the end of the match."""
        deadline = time.monotonic() + PATIENCE
        while True:
            match = re.compile(pattern).search(self.screen, start)
            if match:
                return match.end()
            left = deadline - time.monotonic()
            assert left > 0, self.screen
            if select.select([self.descriptor], [], [], left)[0]:
                self.screen += os.read(self.descriptor, 65536).decode(errors="replace")
                self.reads.append(len(self.screen))

    def type(self, text):
        os.write(self.descriptor, text.encode())

    def status(self):
        """Wait for the exit status."""
        _, status = os.waitpid(self.process, 0)
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(status)


def test_streaming_turns_and_eof(tiny_folder, image_files):
    options = ("--model-path", tiny_folder, "--image-file", image_files[0], "--temperature", "0")
    terminal = Terminal(*command(*options, "--max-new-tokens", "60"))
    position = terminal.read_until("USER: ")
    assert terminal.screen == "USER: "  # no output before
    for question in ("what is this?", "sure?"):
        terminal.type(question + "\n")
        begin = terminal.read_until(re.escape(question) + "\r\nASSISTANT: ", position)
        position = terminal.read_until("\r\nUSER: ", begin)
        assert position - begin > len("\r\nUSER: ")
    assert len([length for length in terminal.reads if begin < length < position]) > 3
    terminal.type("\x04")
    terminal.read_until(r"exit\.\.\.", position)
    assert terminal.status() == 0


@pytest.mark.slow
def test_ctrl_c_stops_the_answer_only(tmp_path):
    endless = build(tmp_path / "endless", positions=10**6, endless=True)
    options = ("--model-path", endless, "--temperature", "0", "--max-new-tokens", "1000000")
    terminal = Terminal(*command(*options))
    position = terminal.read_until("USER: ")
    terminal.type("hi\n")
    position = terminal.read_until("ASSISTANT: ..", position)
    os.kill(terminal.process, signal.SIGINT)
    position = terminal.read_until(r"\[stopped\]\r\nUSER: ", position)
    terminal.type("\n")
    terminal.read_until(r"exit\.\.\.", position)
    assert terminal.status() == 0


def test_pipe_gets_answers_only(tiny_folder, image_files):
    ended = subprocess.run(
        command("--model-path", tiny_folder, "--image-file", image_files[0], "--max-new-tokens", 9),
        input="what is this?\nsure?\n",
        capture_output=True,
        text=True,
        errors="replace",
        cwd=ROOT,
        timeout=PATIENCE,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count("\n") == 2


def test_error_is_one_line(tmp_path):
    ended = subprocess.run(
        command("--model-path", tmp_path, "--image-file", tmp_path / "none.png"),
        input="",
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("error: image 1 of 1: ")
