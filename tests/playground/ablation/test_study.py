import pytest

from mgm.errors import MGMError
from playground.ablation.study import STUDY_FILE, read_study
from playground.pretraining.encoder_sets import ENCODER_SETS

STUDY = """
[inputs]
language_model = "language"
encoders = "encoders"

[data]
train = "--split train --count 16 --seed 1"
held_out = "--split held_out --count 4 --seed 2"

[arms]
A1 = { title = "mining" }
A2 = { title = "pooling", fusion = { mode = "pool" } }

[sizes.S]
title = "small"
cpu_hours = 1.0
stage_1 = { max_steps = 2 }
stage_2 = { max_steps = 2 }

[[plan]]
size = "S"
arms = ["A1"]
seeds = [1, 2]

[[plan]]
size = "S"
arms = ["*"]
seeds = [1, 2]

[[comparisons]]
title = "attention"
size = "S"
reference = "A1"
rivals = ["A2"]
"""


def names(study):
    return [unit.name for unit in study.units]


@pytest.fixture
def read(tmp_path):
    def parse(text=STUDY, *changes):
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        file = tmp_path / "study.toml"
        file.write_text(text)
        return read_study(file)

    return parse


def test_units_are_in_the_order_of_the_plan_and_unique(read):
    assert names(read()) == ["S/A1/seed-1", "S/A1/seed-2", "S/A2/seed-1", "S/A2/seed-2"]


def test_a_new_arm_takes_one_line(read):
    line = 'A14 = { title = "new", fusion = { mode = "gate" } }\n\n[sizes.S]'
    assert names(read(STUDY, ("\n[sizes.S]", line)))[-1] == "S/A14/seed-2"


def test_patterns_leave_arms_out(read):
    assert names(read(STUDY, ('["*"]', '["*", "!A1"]'))) == [
        *("S/A1/seed-1", "S/A1/seed-2", "S/A2/seed-1", "S/A2/seed-2")
    ]
    assert names(read(STUDY, ('["*"]', '["*", "!A2"]'))) == ["S/A1/seed-1", "S/A1/seed-2"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"pooling", fusion', '"pooling", fuse', r"arms\.A2: 'fuse' is no field; valid: name"),
        ('title = "mining"', "", r"arms\.A1: .*title"),
        ('["A1"]', '["A7"]', "plan: arm 'A7' is unknown; it has A1, A2"),
        ('rivals = ["A2"]', 'rivals = ["A7"]', "comparisons: arm 'A7' is unknown"),
        ("seeds = [1, 2]", "seed = 1", "has to have size, arms and seeds"),
        ("[inputs]", "[input]", "has no inputs"),
        ("[inputs]", "[inputs", "give a study file such as"),
    ],
)
def test_errors_give_file_and_field(read, old, new, message):
    with pytest.raises(MGMError, match=rf"study\.toml: .*{message}"):
        read(STUDY, (old, new))


def test_only_units_that_exist_are_chosen(read):
    study = read()
    assert [unit.name for unit in study.matching("S/*/seed-2")] == ["S/A1/seed-2", "S/A2/seed-2"]
    with pytest.raises(MGMError, match=r"--only L/\*: matches no unit; units are S/A1/seed-1"):
        study.matching("L/*")


def test_the_study_itself():
    study = read_study(STUDY_FILE)
    sets = {encoders.name for encoders in ENCODER_SETS}
    for arm in study.arms.values():
        arm.fusion_config()
        assert arm.encoder_set.name in sets
    # What the plan promises: enough seeds of the primary arms, all in one comparison.
    primary = study.comparisons[0]
    assert (primary.reference, [*primary.rivals]) == ("A1", ["A2", "A3", "A4"])
    for arm in ("A1", "A2", "A3", "A4", "A7"):
        assert study.seeds("S", arm) >= {1, 2, 3, 4, 5}
    assert {unit.arm.name for unit in study.units if unit.size.name == "S"} == set(study.arms)
    compared = {c.reference for c in study.comparisons} | {
        rival for c in study.comparisons if c.size == "S" for rival in c.rivals
    }
    assert compared == set(study.arms)
