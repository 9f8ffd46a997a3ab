"""What a resumed run has to have in common with the one before."""

import json

import pytest

from mgm.errors import MGMError
from mgm.train.args.arguments import TrainingArguments
from mgm.train.checkpointing.run_fingerprint import check_facts, facts_of, write_facts


class Samples(list):
    orientation = "stored"


def test_the_orientation_of_images_counts(tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none")
    samples = Samples([{}, {}])
    facts = facts_of(arguments, samples)
    write_facts(facts, tmp_path)
    check_facts(facts, tmp_path)
    samples.orientation = "upright"
    with pytest.raises(MGMError, match="--image_orientation was stored, is upright"):
        check_facts(facts_of(arguments, samples), tmp_path)
    before = json.loads((tmp_path / "run.json").read_text())
    del before["--image_orientation"]  # a checkpoint of before there was the flag
    (tmp_path / "run.json").write_text(json.dumps(before))
    check_facts(facts, tmp_path)
