"""Number types of command-line options, for argparse's `type`."""

from argparse import ArgumentTypeError


def count(text: str) -> int:
    """A positive integer."""
    number = int(text)
    if number < 1:
        raise ArgumentTypeError(f"{number} is not at least 1")
    return number


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise ArgumentTypeError(f"{number} is not from 0 to 1")
    return number
