"""In place of the interpreter: asks the server of `tests.preloaded` for a process.

It is copied into a folder of the test session with its settings, and runs without site packages,
since it has to start fast.
"""

import array
import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time

SETTINGS = {}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def main():
    words = sys.argv[1:]
    unbuffered = words[:1] == ["-u"]
    rest = words[1:] if unbuffered else words
    kind = rest[0] if rest and rest[0] in ("-m", "-c") else "script"
    program, *rest = rest if kind == "script" else rest[1:]
    known = program in SETTINGS["modules"] if kind == "-m" else not program.startswith("-")
    same = at_import(os.environ) == at_import(SETTINGS["variables"])
    limits = [[limit, list(resource.getrlimit(limit))] for limit, _ in SETTINGS["limits"]]
    # Else the server, and all processes that it forks, would have the limits of its first caller.
    may_start = limits == SETTINGS["limits"] or os.path.exists(SETTINGS["socket"])
    if not (known and same and may_start and are_open(0, 1, 2)):
        os.execv(SETTINGS["python"], [SETTINGS["python"], *words])
    request = {
        "stand_in": os.path.realpath(__file__),
        "kind": kind,
        "program": program,
        "words": rest,
        "unbuffered": unbuffered,
        "folder": os.getcwd(),
        "variables": dict(os.environ),
        "umask": os.umask(0),
        "limits": limits,
    }
    os.umask(request["umask"])
    with connected() as server:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until they can be passed on
        body = json.dumps(request).encode()
        files = array.array("i", [0, 1, 2])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)]
        server.sendmsg([len(body).to_bytes(8, "big")], rights)
        server.sendall(body)
        for number in SIGNALS:
            signal.signal(number, lambda got, _: server.sendall(bytes([got])))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        for number in (0, 1, 2):
            os.close(number)  # else a reader would wait for this process, too
        status = json.loads(server.recv(64) or b"1")
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status)


def are_open(*files):
    """Whether all these files are there to be passed on."""
    try:
        for number in files:
            os.fstat(number)
    except OSError:
        return False
    return True


def at_import(variables):
    """Variables that libraries read when they are imported."""
    read = tuple(SETTINGS["at_import"])
    same = SETTINGS["same"]
    return {n: v for n, v in variables.items() if n.startswith(read) and same.get(n) != v}


def connected():
    """A connection to the server, which is started if there is none."""
    address = SETTINGS["socket"]
    with open(address + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(address)
                return connection
            except (FileNotFoundError, ConnectionRefusedError):
                connection.close()
                start_server(address)


def start_server(address):
    """Start the server, and wait until it listens."""
    if os.path.exists(address):
        os.unlink(address)  # of a server that has ended
    with open(SETTINGS["log"], "a") as log:
        server = subprocess.Popen(
            SETTINGS["server"],
            cwd=SETTINGS["root"],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    while not os.path.exists(address):
        assert server.poll() is None, f"the server of tests.preloaded ended, see {log.name}"
        time.sleep(0.05)


main()
