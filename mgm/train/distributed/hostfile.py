"""Reads and checks a hostfile, DeepSpeed's list of machines."""

import re
from dataclasses import dataclass
from pathlib import Path

from mgm.errors import MGMError, one_line


@dataclass(frozen=True)
class Host:
    """A machine.

    Attributes:
        name: name for ssh; "" for this machine.
        slots: number of its GPUs.
    """

    name: str
    slots: int


def read_hostfile(file: Path) -> list[Host]:
    """The machines of a file with `HOST slots=GPUS` in each line; # begins a comment.

    Raises:
        MGMError: the file cannot be read, or a line is wrong; the line is named.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = one_line(getattr(error, "strerror", None) or error)
        raise MGMError(
            f"--hostfile {file}: cannot be read ({reason}); give a file with 'HOST slots=GPUS' in "
            "each line"
        ) from error
    hosts: dict[str, Host] = {}
    for number, line in enumerate(lines, start=1):
        text = line.split("#", 1)[0].strip()
        if not text:
            continue
        match = re.fullmatch(r"(\S+)\s+slots=(\d+)", text)
        if match is None or int(match[2]) < 1:
            raise MGMError(f"{file}: line {number}: {text!r}; write 'HOST slots=GPUS'")
        if match[1] in hosts:
            raise MGMError(f"{file}: line {number}: duplicate host {match[1]}; give it one line")
        hosts[match[1]] = Host(match[1], int(match[2]))
    if not hosts:
        raise MGMError(f"{file}: no hosts; write 'HOST slots=GPUS' in each line")
    return list(hosts.values())
