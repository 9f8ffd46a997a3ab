"""Forked programs behave like those that the interpreter starts."""

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import forget_settings
from tests.preloaded import MODULES, PYTHON, cpu_seconds, environment

pytestmark = pytest.mark.process
BOTH = pytest.mark.parametrize("python", [PYTHON, sys.executable], ids=["forked", "interpreter"])
TELL = """
import os, resource, sys
print(sys.argv, os.getcwd(), os.environ["HERE"], sys.stdin.read(), __name__, os.umask(0))
print(resource.getrlimit(resource.RLIMIT_FSIZE)[0], sys.stdout.isatty(), file=sys.stderr)
"""


def run(python, *words, **options):
    return subprocess.run([python, *words], capture_output=True, text=True, timeout=60, **options)


def limited():
    resource.setrlimit(resource.RLIMIT_FSIZE, (12345, 12345))
    os.umask(0o27)


def test_environment_files_and_arguments(tmp_path):
    forked, started = (
        run(
            python, "-c", TELL, "a b", "ä",
            cwd=tmp_path, env=environment(HERE="é"), input="in", preexec_fn=limited,
        )
        for python in (PYTHON, sys.executable)
    )  # fmt: skip
    assert forked.stdout == started.stdout == f"['-c', 'a b', 'ä'] {tmp_path} é in __main__ 23\n"
    assert forked.stderr == started.stderr == "12345 False\n"


def test_scripts_and_modules(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys, beside\nprint(sys.argv[1:], beside.__file__, __file__)\n")
    (tmp_path / "beside.py").write_text("")
    forked, started = (run(python, str(script), "x") for python in (PYTHON, sys.executable))
    assert forked.stdout == started.stdout == f"['x'] {tmp_path / 'beside.py'} {script}\n"
    helped = run(PYTHON, "-m", "mgm.convert", "--help", env=environment())
    assert "python -m mgm.convert" in helped.stdout
    assert helped.stderr == ""
    # The server does not know this interpreter: the real one runs it.
    assert run(PYTHON, "-m", "json.tool", input="[1]").stdout.split() == ["[", "1", "]"]
    assert run(PYTHON, "-c", "print(1)", env=environment(HF_HUB_OFFLINE="1")).stdout == "1\n"


@BOTH
@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("import sys; sys.exit(7)", 7, ""),
        ("raise SystemExit('no')", 1, "no\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("import atexit, sys; atexit.register(sys.stderr.write, 'end\\n')", 0, "end\n"),
    ],
)
def test_exit_status(python, code, status, error):
    ended = run(python, "-c", code)
    assert ended.returncode == status
    assert ended.stderr.endswith(error)


@BOTH
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signals(python, number):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    process = subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    own = int(process.stdout.readline())
    process.send_signal(number)
    assert process.wait(20) == -number
    assert process.stdout.read() == ""  # no process has it open any more
    for _ in range(100):
        if not os.path.exists(f"/proc/{own}"):  # noqa: PTH110
            return
        time.sleep(0.05)
    pytest.fail("the program outlives its stand-in")


def test_child_programs_are_forked_and_timed():
    code = "import sys; print(sys.executable); sum(range(20_000_000))"
    test = os.environ["PYTEST_CURRENT_TEST"]
    before = cpu_seconds(test)
    assert run(PYTHON, "-c", code).stdout.strip() == os.path.realpath(PYTHON)
    assert cpu_seconds(test) - before > 0.1
    assert cpu_seconds("another") < cpu_seconds(test)


def test_caller_that_disappears():
    assert run(PYTHON, "-c", "").returncode == 0
    for message in (b"", b"\0\0\0\0\0\0\1\0", b"\0\0\0\0\0\0\1\0half"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(Path(PYTHON).with_name("socket")))
            connection.sendall(message)
    assert run(PYTHON, "-c", "").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted({*MODULES} - {"torch.distributed.run"}))
def test_every_program_starts_without_the_server(module):
    """Shows missing imports, and messages at import."""
    ended = run(sys.executable, "-m", module, "--help")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert f"python -m {module.removesuffix('.train_mem')}" in ended.stdout


def test_user_settings_are_removed():
    variables = {"HF_HUB_OFFLINE": "1", "MGM_API_KEYS": "k", "RANK": "1", "MGM_GOLDEN": "x"}
    forget_settings(variables)
    assert variables == {"MGM_GOLDEN": "x"}
