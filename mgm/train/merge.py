"""`python -m mgm.train.merge`: merge a LoRA adapter into its base model.

python -m mgm.train.merge ADAPTER MODEL [--base BASE_MODEL]
"""

from pathlib import Path

from mgm.errors import Parser, run_command, write_output


def main() -> None:
    """Merge the adapter of the command line into its base and save the model.

    Raises:
        MGMError: the folder holds no adapter, or its base is missing.
    """
    parser = Parser(prog="python -m mgm.train.merge", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("adapter", help="folder of the adapter", metavar="ADAPTER")
    parser.add_argument(
        "model", type=Path, help="folder to write, which must not exist", metavar="MODEL"
    )
    parser.add_argument("--base", help="its base model; default: the one in its config")
    options = parser.parse_args()
    # Imported after parsing: this loads torch, which --help does not need.
    from mgm.train.lora.merging import merge

    parameters = merge(options.adapter, options.model, options.base)
    write_output(f"{options.model}: {parameters:,} parameters\n")


if __name__ == "__main__":
    run_command(main)
