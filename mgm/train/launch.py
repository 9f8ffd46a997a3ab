"""`python -m mgm.train.launch`: launch a training run on the GPUs of one or more machines.

    python -m mgm.train.launch --global_batch_size 256 [--dry-run] [flags of mgm.train]

One process for one GPU or a CPU, torchrun for several GPUs, DeepSpeed's launcher for the machines
of a hostfile. Of a flag that is repeated the last value counts.
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
from mgm.train.distributed.batch_plan import BatchPlan, plan_batches
from mgm.train.distributed.hostfile import Host, read_hostfile

HOSTFILE = "hostfile"  # default, in the current folder
MODULE = "mgm.train"


def main(argv: Sequence[str] | None = None) -> None:
    """Launch the run, or with `--dry-run` show its command and an estimate.

    Raises:
        MGMError: an option is wrong, or there is no device to train on.
    """
    options, rest = parse_options(argv)
    # Imported after parsing: these load torch, which --help does not need.
    from mgm.train.args.validation import check_flag_names

    flags = merge_flags(rest)
    check_flag_names(flags)
    hosts = resolve_hosts(options, flags)
    plan = resolve_batch_plan(options, flags, sum(host.slots for host in hosts))
    flags["per_device_train_batch_size"] = [str(plan.per_device)]
    flags["gradient_accumulation_steps"] = [str(plan.accumulated)]
    notes = adapt_to_cpu(flags, hosts)
    command = build_command(options, flags, hosts)
    lines = (f"batch: {plan}", *notes, f"command: {shlex.join(command)}")
    if options.dry_run:
        from mgm.train.estimate.memory_estimate import estimate_run

        estimate = estimate_run(flags, plan, options.language_model_config)
        write_output("".join(f"{line}\n" for line in (*lines, estimate)))
        return
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    os.execvp(command[0], command)


def parse_options(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The launcher's options, and the remaining arguments for `mgm.train`."""
    parser = Parser(
        prog="python -m mgm.train.launch",
        description="Launch a training run on the GPUs of one or more machines. Other flags are "
        "those of python -m mgm.train; of a repeated flag the last value counts.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--dry-run",
        "--dry_run",
        action="store_true",
        help="print the command with estimates of memory and time, and launch nothing",
    )
    add(
        "--hostfile",
        metavar="FILE",
        help="machines, one 'HOST slots=GPUS' per line, for DeepSpeed's launcher; default: the "
        "file 'hostfile' of the current folder, if it exists",
    )
    add(
        "--default_hostfile",
        metavar="NAME",
        default=HOSTFILE,
        help="a file of the current folder that is preferred to 'hostfile'; recipes for four "
        "machines use 'hostfile_4'",
    )
    add("--devices", type=int, metavar="N", help="processes on this machine; default: its GPUs")
    add("--nodes", type=int, default=1, metavar="N", help="number of machines, for torchrun")
    add("--node_rank", type=int, default=0, metavar="N", help="rank of this machine, from 0")
    add("--master_addr", default="", metavar="HOST", help="address of machine 0")
    add("--master_port", type=int, default=29500, metavar="PORT", help="default 29500")
    add(
        "--global_batch_size",
        type=int,
        metavar="N",
        help="samples per optimizer step over all devices; sets per-device batch size and gradient "
        "accumulation",
    )
    add(
        "--language_model_config",
        type=Path,
        metavar="FILE",
        help="config.json of the language model for --dry-run, if its folder is missing",
    )
    options, rest = parser.parse_known_args(argv)
    for name in ("devices", "nodes", "global_batch_size"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise MGMError(f"--{name} {getattr(options, name)}: give a number from 1")
    if options.nodes > 1 and not options.master_addr:
        raise MGMError("--nodes needs --master_addr, the address of machine 0")
    return options, rest


def merge_flags(argv: Sequence[str]) -> dict[str, list[str]]:
    """Flags with their values; the last of repeated ones counts.

    Raises:
        MGMError: a value comes before any flag.
    """
    flags: dict[str, list[str]] = {}
    name = None
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            flags[name] = [value] if equals else []
        elif name is None:
            raise MGMError(f"{word!r} belongs to no flag; write --flag value")
        else:
            flags[name].append(word)
    return flags


def resolve_hosts(options: argparse.Namespace, flags: dict[str, list[str]]) -> list[Host]:
    """The machines to train on; a dry run needs no GPU.

    Raises:
        MGMError: a hostfile is wrong, or there is no GPU and no `--use_cpu`.
    """
    if (file := find_hostfile(options, flags)) is not None:
        if options.devices is not None:
            raise MGMError("--devices conflicts with a hostfile, which has slots; leave it out")
        hosts = read_hostfile(file)
        if len(hosts) == 1 and hosts[0].name in ("localhost", "127.0.0.1", socket.gethostname()):
            return [Host("", hosts[0].slots)]  # no ssh
        if not options.dry_run and find_spec("deepspeed") is None:
            raise MGMError("a hostfile needs DeepSpeed's launcher; pip install -e '.[train]'")
        return hosts
    import torch

    devices = options.devices
    gpus = 0 if uses_cpu(flags) else torch.cuda.device_count()
    if not uses_cpu(flags) and not options.dry_run:
        if not gpus:
            raise MGMError(
                "no CUDA device is available; train on another machine (--hostfile), or on the CPU "
                "with --use_cpu True, which is for small models"
            )
        if devices is not None and devices > gpus:
            raise MGMError(f"--devices {devices}: this machine has {gpus}")
    return [Host("", devices or gpus or 1)] * options.nodes


def find_hostfile(options: argparse.Namespace, flags: dict[str, list[str]]) -> Path | None:
    """`--hostfile`, or the first default one that exists in the current folder."""
    if options.hostfile is not None:
        return Path(options.hostfile)
    names = () if uses_cpu(flags) else (options.default_hostfile, HOSTFILE)
    return next((Path(name) for name in names if Path(name).is_file()), None)


def uses_cpu(flags: dict[str, list[str]]) -> bool:
    """Whether `--use_cpu` is on."""
    return "use_cpu" in flags and flags["use_cpu"] not in (["False"], ["false"])


def resolve_batch_plan(
    options: argparse.Namespace, flags: dict[str, list[str]], devices: int
) -> BatchPlan:
    """Batch sizes from `--global_batch_size`, or from the training's own flags."""
    per_device = integer_flag(flags, "per_device_train_batch_size", 8)
    if options.global_batch_size is None:
        accumulated = integer_flag(flags, "gradient_accumulation_steps", 1)
        return BatchPlan(devices, per_device, accumulated)
    if "gradient_accumulation_steps" in flags:
        raise MGMError(
            "--gradient_accumulation_steps follows from --global_batch_size "
            f"{options.global_batch_size} and --per_device_train_batch_size; give those"
        )
    return plan_batches(options.global_batch_size, devices, per_device)


def integer_flag(flags: dict[str, list[str]], name: str, default: int) -> int:
    """The value of a flag as an integer.

    Raises:
        MGMError: it is not one, or less than 1.
    """
    values = flags.get(name, [str(default)])
    if len(values) != 1 or not values[0].isdecimal() or int(values[0]) < 1:
        raise MGMError(f"--{name} {' '.join(values)}: give a whole number from 1")
    return int(values[0])


def adapt_to_cpu(flags: dict[str, list[str]], hosts: Sequence[Host]) -> list[str]:
    """Remove or add flags for training on the CPU; returns log lines about the changes."""
    if not uses_cpu(flags):
        return []
    notes = []
    if "deepspeed" in flags and sum(host.slots for host in hosts) == 1:
        del flags["deepspeed"]
        notes.append("one process on a CPU: --deepspeed is dropped, there is nothing to partition")
    elif sum(host.slots for host in hosts) > 1:
        flags.setdefault("ddp_backend", ["gloo"])
    return notes


def build_command(
    options: argparse.Namespace, flags: dict[str, list[str]], hosts: Sequence[Host]
) -> list[str]:
    """The command that starts the training processes."""
    words = [word for name, values in flags.items() for word in (f"--{name}", *values)]
    port = str(options.master_port)
    if hosts[0].name:
        file = str(find_hostfile(options, flags))
        launcher = ["deepspeed", "--hostfile", file, "--master_port", port, "--no_local_rank"]
        return [*launcher, "--module", MODULE, *words]
    python = [sys.executable, "-m"]
    slots = hosts[0].slots
    if len(hosts) == 1 and slots == 1 and "deepspeed" not in flags:
        return [*python, MODULE, *words]
    rendezvous = ["--standalone"]  # chooses a free port
    if len(hosts) > 1:
        rendezvous = [f"--nnodes={options.nodes}", f"--node_rank={options.node_rank}"]
        rendezvous += [f"--master_addr={options.master_addr}", f"--master_port={port}"]
    torchrun = [*python, "torch.distributed.run", *rendezvous, f"--nproc_per_node={slots}"]
    return [*torchrun, "--module", MODULE, *words]


if __name__ == "__main__":
    run_command(main)
