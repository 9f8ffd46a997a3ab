import pickle
import re
import subprocess
from pathlib import Path

import pytest

from mgm.errors import MGMError, one_line, prefix_errors
from tests.preloaded import PYTHON

pytestmark = pytest.mark.process
ROOT = Path(__file__).resolve().parents[1]
ADVISED = (
    "error: /nowhere/a: No such file or directory; "
    "check the path, its permissions and the free space\n"
)


def run(body, redirection=""):
    """Run `body` as a program in a shell; returns exit status, output and errors."""
    lines = ["from mgm.errors import *", "def main():", f"    {body}", "run_command(main)"]
    shell = f'set -o pipefail; "$0" -c "$1" {redirection}'
    ended = subprocess.run(
        ["bash", "-c", shell, PYTHON, "\n".join(lines)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_error_is_one_line():
    for text in ("a\nb", "a \r\n\n b", "\na\u2028b\x0b"):
        assert str(MGMError(text)) == "a b"
    assert (
        str(MGMError("my  file.png: no\nfile")) == "my  file.png: no file"
    )  # names are not changed
    assert str(pickle.loads(pickle.dumps(MGMError("a\nb")))) == "a b"
    assert one_line(OSError("no\n\tnetwork")) == "no network"


def test_path_occurs_once():
    for message, expected in (
        ("id is 3", "data.json: id is 3"),
        ("data.json: id", "data.json: id"),
    ):
        with pytest.raises(MGMError, match=f"^{re.escape(expected)}$"), prefix_errors("data.json"):
            raise MGMError(message)


def test_exit_statuses():
    assert run("return None") == (0, "", "")
    assert run("return 3") == (3, "", "")
    assert run("write_output('a\\n')") == (0, "a\n", "")
    assert run("raise MGMError('a\\nb')") == (2, "", "error: a b\n")
    assert run("open('/nowhere/a')") == (2, "", ADVISED)
    assert run("raise KeyboardInterrupt") == (130, "", "\n")
    status, _, error = run("1 / 0")
    assert status == 1
    assert "Traceback" in error


def test_broken_pipe():
    status = run("[write_output('a\\n' * 9) for _ in range(99999)]", "| head -1")
    assert status == (141, "a\n", "")
    assert run("write_output('a')", ">&-") == (0, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_output_errors():
    status, _, error = run("write_output('a')", ">/dev/full")
    assert status == 2
    assert error.startswith(
        "error: standard output cannot be written to (No space left on device);"
    )
    assert error.count("\n") == 1
