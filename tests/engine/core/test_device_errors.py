import logging

from mgm import MGMError
from mgm.engine.core.device_errors import as_request_error
from mgm.engine.core.errors import GenerationError


def test_unexpected_errors_are_logged_once(caplog):
    try:
        raise KeyError("weights")
    except KeyError as error:
        fault = as_request_error(error, "decoding")
    assert isinstance(fault, GenerationError)
    assert "\n" not in str(fault)
    assert as_request_error(fault, "streaming") is fault
    assert as_request_error(MGMError("stop is 3"), "decoding").args == ("stop is 3",)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("mgm.engine", logging.ERROR)
    assert record.exc_info is not None
    assert "Traceback" in caplog.text
    assert "KeyError: 'weights'" in caplog.text
