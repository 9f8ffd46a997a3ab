import logging

from mgm import MGMError
from mgm.engine.core.errors import GenerationError
from mgm.engine.core.faults import as_fault


def test_what_nothing_expects_is_logged_once(caplog):
    try:
        raise KeyError("weights")
    except KeyError as error:
        fault = as_fault(error, "writing a token")
    assert isinstance(fault, GenerationError)
    assert "\n" not in str(fault)
    assert as_fault(fault, "passing an answer on") is fault
    assert as_fault(MGMError("stop is 3"), "writing a token").args == ("stop is 3",)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("mgm.engine", logging.ERROR)
    assert record.exc_info is not None
    assert "Traceback" in caplog.text
    assert "KeyError: 'weights'" in caplog.text
