"""`python -m mgm.train.launch`: start a training run on the devices that are there.

    python -m mgm.train.launch --global_batch_size 256 [--dry-run] [flags of mgm.train]

One process for one GPU or a CPU, torchrun for several GPUs, DeepSpeed's launcher for the machines
of a hostfile. Of flags that come twice the last one counts.
"""

import argparse
import os
import shlex
import socket
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from mgm.errors import MGMError, Parser, run_command, write_output
from mgm.train.distributed.batch_plan import BatchPlan, divide
from mgm.train.distributed.hostfile import Host, read_hostfile

HOSTFILE = "hostfile"  # is used where it lies in the current folder
MODULE = "mgm.train"


def main(words: Sequence[str] | None = None) -> None:
    """Start the run, or show what would be started.

    Raises:
        MGMError: an option is wrong, or there is nothing here to train on.
    """
    options, given = parse(words)
    from mgm.train.args.validation import check_flag_names

    flags = merged(given)
    check_flag_names(flags)
    hosts = hosts_of(options, flags)
    batches = batches_of(options, flags, sum(host.slots for host in hosts))
    flags["per_device_train_batch_size"] = [str(batches.per_device)]
    flags["gradient_accumulation_steps"] = [str(batches.accumulated)]
    notes = fit_to_devices(flags, hosts)
    command = command_of(options, flags, hosts)
    lines = (f"batch: {batches}", *notes, f"command: {shlex.join(command)}")
    if options.dry_run:
        from mgm.train.estimate.memory_estimate import estimate_run

        expected = estimate_run(flags, batches, options.language_model_config)
        write_output("".join(f"{line}\n" for line in (*lines, expected)))
        return
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    os.execvp(command[0], command)


def parse(words: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The launcher's options, and the words that are for the training itself."""
    parser = Parser(
        prog="python -m mgm.train.launch",
        description="Start a training run on the devices that are there. All other flags are those "
        "of python -m mgm.train; of flags that come twice the last one counts.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--dry-run",
        "--dry_run",
        action="store_true",
        help="print the command and what the run would take, and start nothing",
    )
    add(
        "--hostfile",
        metavar="FILE",
        help="machines with 'HOST slots=GPUS' in each line, for DeepSpeed's launcher; default: the "
        "file 'hostfile' of the current folder, if it is there",
    )
    add(
        "--default_hostfile",
        metavar="NAME",
        default=HOSTFILE,
        help="a file of the current folder that is taken before 'hostfile', as recipes of four "
        "machines take 'hostfile_4'",
    )
    add("--devices", type=int, metavar="N", help="processes on this machine; default: its GPUs")
    add("--nodes", type=int, default=1, metavar="N", help="machines that torchrun joins")
    add("--node_rank", type=int, default=0, metavar="N", help="which of them this is, from 0")
    add("--master_addr", default="", metavar="HOST", help="the first of them")
    add("--master_port", type=int, default=29500, metavar="PORT", help="default 29500")
    add(
        "--global_batch_size",
        type=int,
        metavar="N",
        help="samples of an optimizer step, over all devices; devices and accumulated batches are "
        "fitted to it",
    )
    add(
        "--language_model_config",
        type=Path,
        metavar="FILE",
        help="config.json to forecast with while the language model's folder is not there",
    )
    options, rest = parser.parse_known_args(words)
    for name in ("devices", "nodes", "global_batch_size"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise MGMError(f"--{name} {getattr(options, name)}: give a number from 1")
    if options.nodes > 1 and not options.master_addr:
        raise MGMError("--nodes needs --master_addr, the name of the first machine")
    return options, rest


def merged(words: Sequence[str]) -> dict[str, list[str]]:
    """Flags with their values; the last of equal ones counts.

    Raises:
        MGMError: a value comes before any flag.
    """
    flags: dict[str, list[str]] = {}
    name = None
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            flags[name] = [value] if equals else []
        elif name is None:
            raise MGMError(f"{word!r} belongs to no flag; write --flag value")
        else:
            flags[name].append(word)
    return flags


def hosts_of(options: argparse.Namespace, flags: dict[str, list[str]]) -> list[Host]:
    """The machines to train on; for a dry run where none has a GPU, this one as it is.

    Raises:
        MGMError: a hostfile is wrong, or there is no GPU and the CPU was not asked for.
    """
    if (file := hostfile_of(options, flags)) is not None:
        if options.devices is not None:
            raise MGMError("--devices beside a hostfile, whose slots say it; leave it out")
        hosts = read_hostfile(file)
        if len(hosts) == 1 and hosts[0].name in ("localhost", "127.0.0.1", socket.gethostname()):
            return [Host("", hosts[0].slots)]  # which needs no ssh
        if not options.dry_run and find_spec("deepspeed") is None:
            raise MGMError("a hostfile needs DeepSpeed's launcher; pip install -e '.[train]'")
        return hosts
    import torch

    devices = options.devices
    found = 0 if on_cpu(flags) else torch.cuda.device_count()
    if not on_cpu(flags) and not options.dry_run:
        if not found:
            raise MGMError(
                "no CUDA device is here, and this recipe is for GPUs; train on another machine "
                "(--hostfile), or on the CPU with --use_cpu True, which is for small models"
            )
        if devices is not None and devices > found:
            raise MGMError(f"--devices {devices}: there are {found} here")
    return [Host("", devices or found or 1)] * options.nodes


def hostfile_of(options: argparse.Namespace, flags: dict[str, list[str]]) -> Path | None:
    """The hostfile that is given, or the first default one that the current folder has."""
    if options.hostfile is not None:
        return Path(options.hostfile)
    names = () if on_cpu(flags) else (options.default_hostfile, HOSTFILE)
    return next((Path(name) for name in names if Path(name).is_file()), None)


def on_cpu(flags: dict[str, list[str]]) -> bool:
    """Whether the CPU was asked for."""
    return "use_cpu" in flags and flags["use_cpu"] not in (["False"], ["false"])


def batches_of(options: argparse.Namespace, flags: dict[str, list[str]], devices: int) -> BatchPlan:
    """How many samples go where, so that a step has as many as were asked for."""
    per_device = number(flags, "per_device_train_batch_size", 8)
    if options.global_batch_size is None:
        accumulated = number(flags, "gradient_accumulation_steps", 1)
        return BatchPlan(devices, per_device, accumulated)
    if "gradient_accumulation_steps" in flags:
        raise MGMError(
            "--gradient_accumulation_steps follows from --global_batch_size "
            f"{options.global_batch_size} and --per_device_train_batch_size; give those"
        )
    return divide(options.global_batch_size, devices, per_device)


def number(flags: dict[str, list[str]], name: str, default: int) -> int:
    """A flag's whole number.

    Raises:
        MGMError: it is none, or less than 1.
    """
    values = flags.get(name, [str(default)])
    if len(values) != 1 or not values[0].isdecimal() or int(values[0]) < 1:
        raise MGMError(f"--{name} {' '.join(values)}: give a whole number from 1")
    return int(values[0])


def fit_to_devices(flags: dict[str, list[str]], hosts: Sequence[Host]) -> list[str]:
    """Take out what cannot be used here, and say so."""
    if not on_cpu(flags):
        return []
    notes = []
    if "deepspeed" in flags and sum(host.slots for host in hosts) == 1:
        del flags["deepspeed"]
        notes.append("one process on a CPU: --deepspeed is left out, there is nothing to share")
    elif sum(host.slots for host in hosts) > 1:
        flags.setdefault("ddp_backend", ["gloo"])
    return notes


def command_of(
    options: argparse.Namespace, flags: dict[str, list[str]], hosts: Sequence[Host]
) -> list[str]:
    """What is started."""
    words = [word for name, values in flags.items() for word in (f"--{name}", *values)]
    port = str(options.master_port)
    if hosts[0].name:
        file = str(hostfile_of(options, flags))
        started = ["deepspeed", "--hostfile", file, "--master_port", port, "--no_local_rank"]
        return [*started, "--module", MODULE, *words]
    python = [sys.executable, "-m"]
    slots = hosts[0].slots
    if len(hosts) == 1 and slots == 1 and "deepspeed" not in flags:
        return [*python, MODULE, *words]
    place = ["--standalone"]  # which takes a port that is free
    if len(hosts) > 1:
        place = [f"--nnodes={options.nodes}", f"--node_rank={options.node_rank}"]
        place += [f"--master_addr={options.master_addr}", f"--master_port={port}"]
    torchrun = [*python, "torch.distributed.run", *place, f"--nproc_per_node={slots}"]
    return [*torchrun, "--module", MODULE, *words]


if __name__ == "__main__":
    run_command(main)
