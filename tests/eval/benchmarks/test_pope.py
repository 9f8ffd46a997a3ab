import pytest

from mgm.eval.benchmarks.pope import f1, parse
from tests.golden_files import golden_json


def test_every_record_of_the_published_script():
    cases = golden_json("eval/pope.json")["cases"]
    for case in cases:
        said = [parse(text) for text in case["texts"]]
        assert said == case["parsed"]
        pairs = list(zip(said, case["labels"], strict=False))
        credits = [float(own == label) for own, label in pairs]
        ours = f1([label for _, label in pairs], credits)
        if "error" in case:
            assert ours == 0  # the published one divides by zero
            continue
        printed = [float(number) for number in case["stdout"].splitlines()[-1].split(",")]
        assert ours == pytest.approx(printed[0], abs=5e-4)
        assert sum(credits) / len(credits) == pytest.approx(printed[1], abs=5e-4)
