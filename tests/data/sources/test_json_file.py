import json

import pytest

from mgm.data.sources.json_file import read_samples
from mgm.errors import MGMError

HUMAN = {"from": "human", "value": "what?"}
MODEL = {"from": "gpt", "value": "a cat"}


def test_lists_and_lines(write_samples):
    good = {"conversations": [HUMAN, MODEL]}
    listed = read_samples(write_samples([good, good]))
    line = json.dumps(good)
    lines = read_samples(write_samples(f"{line}\n\n{line}\n", "data.jsonl"))
    assert listed == lines
    assert len(lines) == 2
    marked = read_samples(write_samples("\ufeff" + json.dumps([good, good])))
    assert marked == read_samples(write_samples(f"\ufeff{line}\n{line}", "data.jsonl")) == lines


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("[{]", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("{}", "holds an object, not a list of samples"),
        ("[]", "holds no sample"),
        ('[{"conversations": 1}]', "data.json: sample 0: has a number as conversations"),
    ],
)
def test_faults_of_a_file(write_samples, content, message):
    path = write_samples(content)
    with pytest.raises(MGMError) as caught:
        read_samples(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path, write_samples):
    with pytest.raises(MGMError, match=r"none.json: cannot be read \(No such file"):
        read_samples(tmp_path / "none.json")
    with pytest.raises(MGMError, match="cannot be read"):
        read_samples(tmp_path)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MGMError, match=r"bytes.json: is text in UTF-16"):
        read_samples(tmp_path / "bytes.json")
    with pytest.raises(MGMError, match="line 2: is not valid JSON"):
        read_samples(
            write_samples(f'{json.dumps({"conversations": [HUMAN, MODEL]})}\n{{"b"', "data.jsonl")
        )
