"""Convert a checkpoint from the published layout to the native one, or back.

    python -m mgm.convert SRC DST --to {native,published} [--dry-run]

The conversion is lossless. DST is renamed from a temporary folder when it is complete.
"""

from pathlib import Path

from mgm.errors import Parser, run_command, write_output


def main() -> None:
    """Parse the command line and convert."""
    parser = Parser(prog="python -m mgm.convert", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", help="a checkpoint's folder, or its id on the hub", metavar="SRC")
    parser.add_argument("target", type=Path, help="the folder to write", metavar="DST")
    parser.add_argument(
        "--to", choices=("native", "published"), required=True, help="the layout of DST"
    )
    parser.add_argument(
        "--model-base", help="the base model, where SRC is a stage-1 or LoRA folder", metavar="DIR"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="list the mapping of tensors, write nothing",
    )
    arguments = parser.parse_args()
    # Imported after parsing: these load torch, which --help does not need.
    from mgm.data.layout_conversion import convert
    from mgm.model.files.hub import checkpoint_folder

    source = checkpoint_folder(arguments.source)
    done = convert(source, arguments.target, arguments.to, arguments.model_base, arguments.dry_run)
    if arguments.dry_run:
        write_output("".join(f"{line}\n" for line in done.lines()))
    verb = "would be written" if arguments.dry_run else "written"
    write_output(
        f"{len(done.tensors)} tensors, {done.nbytes / 1e9:.2f} GB {verb} to {arguments.target}\n"
    )


if __name__ == "__main__":
    run_command(main)
