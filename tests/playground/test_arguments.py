from argparse import ArgumentTypeError

import pytest

from mgm.errors import MGMError, Parser
from playground.arguments import count, fraction


def test_numbers_in_range():
    assert [count("1"), count("12")] == [1, 12]
    assert [fraction("0"), fraction("2e-3"), fraction("1")] == [0.0, 0.002, 1.0]


@pytest.mark.parametrize(
    ("kind", "text"), [(count, "0"), (count, "-3"), (fraction, "1.1"), (fraction, "nan")]
)
def test_numbers_out_of_range(kind, text):
    with pytest.raises(ArgumentTypeError, match="is not"):
        kind(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [("0", "argument --steps: 0 is not at least 1"), ("many", "--steps: invalid count value")],
)
def test_programs_name_the_flag(text, message):
    parser = Parser()
    parser.add_argument("--steps", type=count)
    with pytest.raises(MGMError, match=message):
        parser.parse_args(["--steps", text])
