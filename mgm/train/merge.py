"""`python -m mgm.train.merge`: an adapter and the model below it as one model.

python -m mgm.train.merge ADAPTER MODEL [--base BASE_MODEL]
"""

from pathlib import Path

from mgm.data.processing_mgm import MGMProcessor
from mgm.engine.engine import Engine
from mgm.errors import MGMError, Parser, faults_of, run_command, write_output
from mgm.model.checkpoint.base_digest import check_base_weights
from mgm.model.checkpoint.base_models import MissingBaseError, base_folders
from mgm.model.checkpoint.checkpoint import check_checkpoint
from mgm.model.checkpoint.saved_files import ADAPTER_CONFIG
from mgm.model.files.hub import checkpoint_folder
from mgm.model.loading import load_model


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
    folder = _adapter_folder(options.adapter, options.base)
    if options.model.exists():
        raise MGMError(f"MODEL {options.model}: exists already; name a new folder")
    model = load_model(folder, base=options.base)
    Engine(model, MGMProcessor.from_pretrained(folder, base=options.base)).save_pretrained(
        options.model
    )
    write_output(f"{options.model}: {sum(p.numel() for p in model.parameters()):,} parameters\n")


def _adapter_folder(adapter: str, base: str | None) -> Path:
    """The folder of an adapter whose base is there; what is wrong is said by the program's words.

    Raises:
        MGMError: it is none, or its base is not there or not as it was.
    """
    with faults_of("ADAPTER"):
        if not adapter:
            raise MGMError("ADAPTER is empty; give the folder of an adapter")
        folder = checkpoint_folder(adapter)
        if not (folder / ADAPTER_CONFIG).is_file():
            raise MGMError(
                f"ADAPTER {folder}: holds no {ADAPTER_CONFIG}; give the folder of an adapter"
            )
        check_checkpoint(folder)
    if base is not None:
        with faults_of("--base"):
            checkpoint_folder(base)
    try:
        layers = [folder, *base_folders(folder, base)]
        if base is None:
            check_base_weights(layers, given=False)
    except MissingBaseError as error:
        raise MGMError(f"{error.fault}; give its folder with --base") from error
    return folder


if __name__ == "__main__":
    run_command(main)
