"""Command-line flags of the worker."""

import pytest

from mgm.errors import MGMError
from mgm.serve.worker.main import parse_worker_options


def test_image_timeout():
    assert parse_worker_options(["--model-path", "x"]).image_timeout == 10
    assert (
        parse_worker_options(["--model-path", "x", "--image-timeout", "2.5"]).image_timeout == 2.5
    )


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon"])
def test_invalid_timeouts(value):
    with pytest.raises(MGMError, match="--image-timeout"):
        parse_worker_options(["--model-path", "x", "--image-timeout", value])
