"""Share requests among workers: published pages, OpenAI clients and other controllers ask here.

python -m mgm.serve.controller --host 0.0.0.0 --port 10000
"""

from collections.abc import Sequence

from mgm.errors import MGMError, one_line, run_command


def main(words: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status.

    Raises:
        MGMError: an option is wrong, or the packages for serving are not installed.
    """
    try:
        from mgm.serve import controller_program
    except ImportError as error:
        raise MGMError(f"{one_line(error)}; pip install -e '.[serve]'") from error
    return controller_program.main(words)


if __name__ == "__main__":
    run_command(main)
