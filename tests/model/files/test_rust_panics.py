import pytest
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE

from mgm.model.files.rust_panics import panics_as_errors


def test_panic_becomes_an_exception() -> None:
    tokenizer = Tokenizer(BPE({"a": 0}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.FixedLength(0)
    with pytest.raises(RuntimeError, match="chunk size must be non-zero"), panics_as_errors():
        tokenizer.encode("a")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, ValueError])
def test_other_exceptions_are_not_changed(error) -> None:
    with pytest.raises(error), panics_as_errors():
        raise error
