"""When one of several processes fails, all end with an error, and complete checkpoints stay.

The interpreter itself starts them, not the server of `tests.preloaded`, since parent processes and
interpreter exit matter here.
"""

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.train.conftest import words
from tests.train.test_processes import LIMIT, ROOT, check_same, losses

FORMS = [{}, {"fsdp": "full_shard"}]
pytestmark = pytest.mark.slow


def start(
    flags: dict[str, object],
    largest_file: int | None = None,
    program: tuple[str, ...] = (),
    **variables: str,
) -> subprocess.Popen[str]:
    """Start `python -m mgm.train` in two processes, with a limit on file sizes in bytes."""

    def limited() -> None:
        if largest_file is not None:
            hard_limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, hard_limit))

    torchrun = ("torch.distributed.run", "--standalone", "--nproc_per_node=2", "--module")
    return subprocess.Popen(
        [
            *(sys.executable, "-m", *(program or (*torchrun, "mgm.train"))),
            *words(flags | {"ddp_backend": "gloo", "ddp_timeout": 150}),
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=limited,
    )


def check_failed(process: subprocess.Popen[str], words: str, seconds: float = 120) -> str:
    """Check that the run ends by itself with these words, and leaves no process."""
    children = psutil.Process(process.pid).children(recursive=True)
    start_time = time.monotonic()
    _, log = process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    assert words in log, log[-3000:]
    assert time.monotonic() - start_time < seconds
    assert not psutil.wait_procs(children, timeout=10)[1]
    return log


@pytest.fixture
def flags(stage2_flags, tmp_path) -> dict[str, object]:
    return stage2_flags | {
        "per_device_train_batch_size": 1,
        "save_steps": 1,
        "max_steps": 4,
        "output_dir": tmp_path / "run",
    }


@pytest.mark.parametrize("form", FORMS, ids=["ddp", "fsdp"])
def test_full_disk(flags, form):
    """In all processes; the earlier checkpoint stays, and the run can be resumed."""
    flags = flags | form
    folder = Path(str(flags["output_dir"]))
    first = start(flags)
    assert first.wait(LIMIT) == 0
    for step in (3, 4):
        shutil.rmtree(folder / f"checkpoint-{step}")
    size = (folder / "checkpoint-2" / "model.safetensors").stat().st_size
    log = check_failed(start(flags, largest_file=size // 2), "could not be written")
    assert "Traceback" not in log.split("torch/distributed/")[0]
    assert sorted(path.name for path in folder.glob("*checkpoint*")) == [
        "checkpoint-1",
        "checkpoint-2",
    ]
    again = start(flags)
    assert again.wait(LIMIT) == 0
    assert (folder / "checkpoint-4").is_dir()


def test_full_disk_of_one_process(flags, tmp_path):
    """The others would wait for it in a collective save."""
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from mgm.errors import run_command\n"
        "from mgm.train import __main__ as program\n"
        "from mgm.train.trainer import MGMTrainer\n"
        "save = MGMTrainer._save_rng_state\n"
        "def full(self, folder):\n"
        "    if self.args.process_index == 1:\n"
        "        raise OSError(28, 'No space left on device')\n"
        "    save(self, folder)\n"
        "MGMTrainer._save_rng_state = full\n"
        "run_command(program.main)\n"
    )
    script = tmp_path / "one_fails.py"
    script.write_text(code)
    launcher = ("torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script))
    log = check_failed(start(flags, program=launcher), "No space left on device")
    assert "error: " in log
    assert not list(Path(str(flags["output_dir"])).glob("*checkpoint*"))


@pytest.mark.parametrize("form", FORMS, ids=["ddp", "fsdp"])
def test_killed_process(flags, form):
    process = start(flags | form | {"max_steps": 10_000, "save_steps": 5_000})
    workers: list[psutil.Process] = []
    for _ in range(LIMIT * 10):
        workers = psutil.Process(process.pid).children()
        if len(workers) == 2 and "step 3" in "".join(read_some(process)):
            break
        time.sleep(0.1)
    workers[1].send_signal(signal.SIGKILL)
    check_failed(process, "SIGKILL")


@pytest.mark.parametrize("form", FORMS, ids=["ddp", "fsdp"])
def test_error_of_a_lost_peer(flags, form):
    """Each process is started separately, as on two machines without a common launcher."""
    variables = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    variables["MASTER_PORT"] = str(free_port())
    left, lost = (
        start(
            flags | form | {"max_steps": 10_000, "save_steps": 5_000},
            program=("mgm.train",),
            RANK=rank,
            **variables,
        )
        for rank in ("0", "1")
    )
    assert left.stderr is not None
    for line in left.stderr:
        if "step 3" in line:
            break
    lost.kill()
    log = check_failed(left, "another process of this run has ended")
    assert "Traceback" not in log
    lost.communicate(timeout=10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read_some(process: subprocess.Popen[str]) -> list[str]:
    assert process.stderr is not None
    return [process.stderr.readline() for _ in range(12)]


@pytest.mark.parametrize("form", FORMS, ids=["ddp", "fsdp"])
def test_nan_loss(flags, form):
    log = check_failed(start(flags | form | {"learning_rate": 1e30}), "the loss is")
    assert "samples of the step" in log
    assert "is the last good checkpoint" in log


def test_two_machines_with_torchrun(flags, tmp_path):
    """Two launchers on this machine; the result equals that of one process."""
    port = free_port()
    alone = tmp_path / "alone"
    shared = flags | {"save_strategy": "no", "group_by_modality_length": False}
    whole = shared | {"output_dir": alone, "per_device_train_batch_size": 2}
    single = start(whole, program=("mgm.train",))
    started = [
        start(
            shared,
            program=(
                *("mgm.train.launch", "--nodes", "2", "--node_rank", str(rank)),
                *("--master_addr", "127.0.0.1", "--master_port", str(port), "--devices", "1"),
            ),
        )
        for rank in (1, 0)
    ]
    for process in (single, *started):
        _, log = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, log[-3000:]
    assert len(losses(alone)) == 4
    check_same(Path(str(shared["output_dir"])), alone)


def test_port_in_use(flags):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for program in (
            ("mgm.train.launch", "--nodes", "2", "--master_addr", "127.0.0.1",
             "--master_port", port, "--devices", "1"),
            ("torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}",
             "--module", "mgm.train"),
        ):  # fmt: skip
            log = check_failed(start(flags, program=program), port)
            assert "in use" in log.lower()
