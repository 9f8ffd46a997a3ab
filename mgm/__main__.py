"""The command `mgm`, also `python -m mgm`: runs one of the programs by a short name."""

import runpy
import sys

from mgm import __version__
from mgm.errors import MGMError, run_command, write_output

COMMANDS = {
    "train": ("mgm.train", "train a model: stage 1, stage 2 or LoRA"),
    "launch": ("mgm.train.launch", "start training on the available devices or hosts"),
    "merge": ("mgm.train.merge", "merge a LoRA adapter into its base model"),
    "eval": ("mgm.eval", "run benchmarks, score predictions, compare models"),
    "prepare": ("mgm.eval.prepare", "download the files of benchmarks"),
    "serve": ("mgm.serve.model_worker", "serve a model with the OpenAI API"),
    "controller": ("mgm.serve.controller", "route requests to several workers"),
    "web": ("mgm.serve.gradio_web_server", "serve a web page to chat with models"),
    "chat": ("mgm.serve.cli", "chat in the terminal"),
    "convert": ("mgm.convert", "convert a checkpoint from or to the published layout"),
    "doctor": ("mgm.data.doctor", "check a data file before training"),
}


def main() -> int:
    """Run the program of the first argument with the others; returns the exit status."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        write_output(usage())
        return 0
    if command == "--version":
        write_output(f"mgm {__version__}\n")
        return 0
    if command not in COMMANDS:
        raise MGMError(f"{command:.100}: no such command; choose from {', '.join(COMMANDS)}")
    module, _ = COMMANDS[command]
    sys.argv = [f"mgm {command}", *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def usage() -> str:
    """The text of --help: all commands with the modules that they run."""
    rows = [f"  {name:<11} {text} ({module})" for name, (module, text) in COMMANDS.items()]
    return "\n".join(
        (
            "usage: mgm COMMAND [options]",
            "",
            *rows,
            "",
            "mgm COMMAND --help lists the options of a command; python -m MODULE is the same.",
            "",
        )
    )


def program() -> None:
    """The entry point of the console script."""
    run_command(main)


if __name__ == "__main__":
    program()
