"""`python -m mgm.train.merge`: an adapter and the model below it as one model.

python -m mgm.train.merge ADAPTER MODEL [--base BASE_MODEL]
"""

from pathlib import Path

from mgm.errors import Parser, run_command, write_output


def main() -> None:
    """Read the command line and merge.

    Raises:
        MGMError: the folder holds no adapter, or its base is not there.
    """
    parser = Parser(prog="python -m mgm.train.merge", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("adapter", help="the folder that training left", metavar="ADAPTER")
    parser.add_argument("model", type=Path, help="the folder to write", metavar="MODEL")
    parser.add_argument("--base", help="the model below it; default: the one it names")
    options = parser.parse_args()
    # Behind the parser: this loads torch, which --help does without.
    from mgm.train.lora.merging import merge

    parameters = merge(options.adapter, options.model, options.base)
    write_output(f"{options.model}: {parameters:,} parameters\n")


if __name__ == "__main__":
    run_command(main)
