"""Options of evaluation: each has an effect, or is an error."""

from pathlib import Path

import pytest

from mgm.errors import MGMError
from mgm.eval.options import parse_args

FOLDERS = "--compare . ."
ANSWERS = "--predictions a.jsonl --benchmark nano"
ENDPOINT = "--endpoint http://x/v1 --model m --benchmark nano"
FOLDER = "--model-path m --benchmark nano"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        *((f"{FOLDERS} {one}", "has no effect with --compare, only with")
          for one in ("--benchmark nano", "--limit 3", "--judge x", "--ablate pool", "--data-dir y",
                      "--dry-run", "--score-only", "--strip-thinking", "--protocol paper",
                      "--batch-size 3", "--max-new-tokens 3", "--device cpu", "--model x",
                      "--judge-url http://x")),
        *((f"{ANSWERS} {one}", "has no effect with --predictions, only with")
          for one in ("--margin 900", "--dtype float99", "--conv-mode bogus", "--ablate pool",
                      "--quantize int8", "--model-base b", "--device cpu", "--batch-size 3",
                      "--max-new-tokens 3")),
        *((f"{ENDPOINT} {one}", "has no effect with --endpoint, only with --model-path")
          for one in ("--dtype float32", "--conv-mode x", "--ablate pool", "--quantize int8",
                      "--model-base b", "--device cpu")),
        (f"{ENDPOINT} --margin 1", "--margin has no effect with --endpoint, only with --compare"),
        (f"{FOLDER} --margin 1", "--margin has no effect with --model-path, only with --compare"),
        (f"{FOLDER} --model m", "only with --endpoint or --predictions; remove it"),
        (f"{FOLDER} --judge-url http://x", "--judge-url has no effect without --judge"),
        (f"{FOLDERS} --model-path m", "--model-path and --compare exclude each other"),
        (f"{FOLDER} --predictions a.jsonl", "give --model-path, or --endpoint with --model, or"),
        ("--benchmark nano", "give --model-path, or --endpoint with --model, or --predictions"),
        ("--model-path m", "--benchmark: give some of textvqa"),
        (f"{FOLDER} --ablate hr", "--ablate hr: unknown ablation"),
    ],
)  # fmt: skip
def test_options_without_effect_are_errors(words: str, message: str) -> None:
    with pytest.raises(MGMError) as error:
        parse_args(words.split())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        f"{FOLDER} --model-base b --conv-mode c --device cpu --dtype float32 --quantize int8 "
        "--ablate pool --judge j --judge-url u --limit 3 --batch-size 2 --max-new-tokens 4 "
        "--score-only --strip-thinking --output-dir o --data-dir d --protocol paper --dry-run",
        f"{ENDPOINT} --batch-size 2 --max-new-tokens 4 --score-only --judge j --limit 3",
        f"{ANSWERS} --model name --limit 2 --judge j --strip-thinking --output-dir o --score-only",
        f"{FOLDERS} --margin 3 --output-file o.md",
    ],
)
def test_options_with_an_effect(words: str) -> None:
    assert isinstance(parse_args(words.split()).data_dir, Path)
