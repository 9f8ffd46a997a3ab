"""Serve a model: to a controller and its page, and by the OpenAI API.

python -m mgm.serve.model_worker --model-path playground/mgm-nano --port 40000
"""

from collections.abc import Sequence

from mgm.errors import MGMError, one_line, run_command


def main(words: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status.

    Raises:
        MGMError: an option is wrong, or the packages for serving are not installed.
    """
    try:
        from mgm.serve import worker_program
    except ImportError as error:
        raise MGMError(f"{one_line(error)}; pip install -e '.[serve]'") from error
    return worker_program.main(words)


if __name__ == "__main__":
    run_command(main)
