"""Programs of the project in processes of their own, which need not import everything again.

Importing torch, transformers and what builds on them takes some seconds of processor time, and the
tests start hundreds of programs. One server of a test session imports them once; `PYTHON` is a
stand-in for the interpreter that has the server fork a process for `python -m module ...`, a script
or `-c code`. The process is a real one: it has the caller's files, variables, folder, limits and
arguments, can be killed, and ends with its own status. Whatever it starts by `sys.executable`, such
as torchrun's processes, begins in the same way.

What asks for a module that is not one of `MODULES`, or has variables that libraries read when they
are imported, is run by the interpreter itself.

    python -m tests.preloaded SOCKET WATCHED_PROCESS      the server
"""

import array
import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import resource
import runpy
import select
import signal
import socket
import sys
import threading
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

PYTHON = os.environ.get("MGM_TEST_PYTHON", sys.executable)
# Limits of a process, which the stand-in passes on.
LIMITS = (resource.RLIMIT_FSIZE, resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)
TEST = "PYTEST_CURRENT_TEST"  # the variable that names the test
LOOK = 2.0  # seconds between checks whether the tests still run

MODULES = (
    "mgm.convert",
    "mgm.data.doctor",
    "mgm.eval",
    "mgm.eval.prepare",
    "mgm.serve.cli",
    "mgm.serve.controller",
    "mgm.serve.gradio_web_server",
    "mgm.serve.model_worker",
    "mgm.train",
    "mgm.train.launch",
    "mgm.train.merge",
    "mgm.train.train_mem",
    "torch.distributed.run",
)
IMPORTED = (
    "mgm.convert",
    "mgm.data.doctor.__main__",
    "mgm.data.layout_conversion",
    "mgm.engine.loading",
    "mgm.eval.__main__",
    "mgm.eval.prepare",
    "mgm.serve.cli",
    "mgm.serve.router.main",
    "mgm.serve.web.main",
    "mgm.serve.worker.app",
    "mgm.serve.worker.main",
    "mgm.train.__main__",
    "mgm.train.estimate.memory_estimate",
    "mgm.train.launch",
    "mgm.train.lora.merging",
    "mgm.train.merge",
    "mgm.train.run",
    "torch.distributed.run",
    "torch.distributed.elastic.multiprocessing.subprocess_handler",
    "torch.utils.tensorboard",
    "peft",
    "transformers.models.llama.modeling_llama",
    "transformers.models.clip.modeling_clip",
)
# Read by libraries at import, or by the interpreter at start.
AT_IMPORT = ("CUDA_", "HF_", "LANG", "LC_", "LD_PRELOAD", "OMP_", "PYTHON", "TRANSFORMERS_")


def environment(**variables: str) -> dict[str, str]:
    """Variables of a program, or of a script that starts programs as `python`."""
    path = f"{Path(PYTHON).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"OMP_NUM_THREADS": "1", "PATH": path} | variables


def write_stand_in(file: Path) -> None:
    """Write the stand-in for the interpreter, which starts the server when it is first asked."""
    root = str(Path(__file__).parents[1])
    address = file.with_name("socket")
    settings = {
        "socket": str(address),
        "python": sys.executable,
        "modules": MODULES,
        "at_import": AT_IMPORT,
        "variables": {n: v for n, v in os.environ.items() if n.startswith(AT_IMPORT)},
        "server": [sys.executable, "-m", "tests.preloaded", str(address), str(os.getpid())],
        "root": root,
        # Ignored: the server was imported with it, and Gradio sets it at import.
        "same": {"PYTHONPATH": root, "HF_HUB_DISABLE_TELEMETRY": "True"},
        "limits": [[limit, list(resource.getrlimit(limit))] for limit in LIMITS],
        "log": str(file.with_name("log")),
    }
    text = Path(__file__).with_name("stand_in.py").read_text(encoding="utf-8")
    text = text.replace("SETTINGS = {}", f"SETTINGS = {settings!r}")
    # The shell, since the kernel cannot start an interpreter path with a space; to Python a string.
    start = f'#!/bin/sh\n"exec" "{sys.executable}" "-IS" "$0" "$@"\n'
    file.write_text(start + text, encoding="utf-8")
    file.chmod(0o755)


def main(address: str, watched: int) -> None:
    """Serve until the watched process is gone; in a forked process: run what was asked for."""
    for module in IMPORTED:
        with contextlib.suppress(ImportError):  # optional packages may be missing
            importlib.import_module(module)
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen(64)
    Path(f"{address}.new").rename(address)
    children: dict[int, socket.socket] = {}
    tests: dict[int, str] = {}  # that requested them
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, _nothing)
    while Path(f"/proc/{watched}").exists():
        ready, _, _ = select.select([listener, wake_read, *children.values()], [], [], LOOK)
        for stream in ready:
            if stream is listener:
                connection = listener.accept()[0]
                request, files = _received(connection)
                if request is None:  # the caller was killed meanwhile
                    _close(files)
                    connection.close()
                    continue
                child = os.fork()
                if child == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for other in (listener, connection, *children.values()):
                        other.close()
                    os.close(wake_read)
                    os.close(wake_write)
                    _end(_run(request, files))
                _close(files)
                children[child] = connection
                tests[child] = request["variables"].get(TEST, "")
            elif stream is wake_read:
                os.read(wake_read, 4096)
        for child, connection in list(children.items()):
            if connection in ready:
                _pass_signals(child, connection)
            ended, status, usage = os.wait4(child, os.WNOHANG)
            if ended:
                with Path(address).with_name("cpu").open("a") as file:
                    file.write(f"{usage.ru_utime + usage.ru_stime}\t{tests.pop(child)}\n")
                with contextlib.suppress(OSError):
                    connection.sendall(json.dumps(os.waitstatus_to_exitcode(status)).encode())
                children.pop(child).close()
    for child in children:
        os.kill(child, signal.SIGKILL)


def _nothing(number: int, frame: FrameType | None) -> None:
    """Only wakes the server."""


def _received(connection: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """A request, None if it breaks off, and the files 0, 1 and 2 of who sent it."""
    files = array.array("i")
    head, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * files.itemsize))
    for _, _, content in ancillary:
        files.frombytes(content)
    size, body = int.from_bytes(head, "big"), b""
    while len(body) < size and (more := connection.recv(size - len(body))):
        body += more
    return json.loads(body) if head and len(body) == size else None, files.tolist()


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


def _pass_signals(child: int, connection: socket.socket) -> None:
    """Signals that the stand-in got; if it is gone, it was killed."""
    with contextlib.suppress(ProcessLookupError):
        numbers = connection.recv(64)
        for number in numbers or (signal.SIGKILL,):
            os.kill(child, number)


def cpu_seconds(test: str) -> float:
    """CPU time of this process, and of all that a test started and that has ended."""
    file, forked = Path(PYTHON).with_name("cpu"), 0.0
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        seconds, _, of = line.partition("\t")
        forked += float(seconds) if of.startswith(test) else 0.0
    times = os.times()
    return forked + times.user + times.system + times.children_user + times.children_system


def _run(request: dict[str, Any], files: list[int]) -> int:
    """Be the process that was asked for; returns the exit status."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["variables"])
    os.umask(request["umask"])
    for limit, values in request["limits"]:
        resource.setrlimit(limit, tuple(values))
    _open_streams(request["unbuffered"])
    sys.executable = request["stand_in"]
    try:
        _run_program(request["kind"], request["program"], request["words"])
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException as error:  # noqa: BLE001  as the interpreter does
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def _run_program(kind: str, program: str, words: list[str]) -> None:
    """Run a module, a script or a text as the interpreter does."""
    sys.argv = [program if kind == "script" else kind, *words]
    sys.path[0] = str(Path(program).resolve().parent) if kind == "script" else ""
    if kind == "-m":
        sys.path[0] = str(Path.cwd())
        is_package = hasattr(sys.modules.get(program), "__path__")
        sys.modules.pop(
            f"{program}.__main__" if is_package else program, None
        )  # else it would warn
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        main_module = sys.modules["__main__"] = ModuleType("__main__")
        exec(program, main_module.__dict__)
    else:
        runpy.run_path(program, run_name="__main__")


def _end(status: int) -> None:
    """End as the interpreter does, but leave memory to the system: taking down all that was
    imported would take seconds."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = 120  # the interpreter's own error for a stream that cannot be written to
        except ValueError:
            pass  # the program has closed it
    os._exit(status)


def _open_streams(unbuffered: bool) -> None:
    """Standard streams as the interpreter opens them."""
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
    for number, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        stream = io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(number, "w", closefd=False)),
            encoding="utf-8",
            errors=errors,
            line_buffering=name == "stderr" or os.isatty(number),
            write_through=unbuffered,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
