"""Ablations by name, with separate cache keys, on a tiny model."""

import pytest

from mgm import FusionConfig, MGMError
from mgm.eval.ablation.definitions import (
    ABLATION_KINDS,
    ALL_ABLATIONS,
    Ablation,
    check_ablation_names,
    parse_ablations,
)
from tests.model.tiny import HD, tiny_config


@pytest.mark.parametrize(
    ("name", "fusion"),
    [
        ("hr_off", {"mode": "none"}),
        ("grey_vit", {"grey_low_resolution": True}),
        ("hr_only", {"high_resolution_only": True}),
        ("pool", {"mode": "pool"}),
        ("one_query", {"mode": "one_query"}),
        ("shift", {"window_shift": 1}),
        ("shift:3", {"window_shift": 3}),
        ("blur:20", {"blur_high_resolution": 20}),
        ("stage_mean", {"averaged_stages": (4,)}),
        ("stage_mean:2", {"averaged_stages": (2,)}),
    ],
)
def test_each_changes_one_fusion_setting(name, fusion) -> None:
    (ablation,) = parse_ablations([name], tiny_config())
    assert ablation.fusion(tiny_config()) == FusionConfig(**fusion)
    assert parse_ablations([ablation.name], tiny_config()) == [ablation]
    assert "{}" not in ablation.description


def test_default_blur_is_the_low_resolution() -> None:
    """It shares its responses with the blur of that number."""
    assert parse_ablations(["blur", "blur:28"], tiny_config()) == [Ablation("blur", 28)]
    (blur,) = parse_ablations(["blur"], tiny_config(**HD))
    assert blur.name == "blur:56"
    assert blur.description == "high-resolution image blurred to 56 pixels"
    assert blur.fusion(tiny_config(**HD)).blur_high_resolution == 2 * 28


def test_groups_and_repeated_names() -> None:
    ablations = parse_ablations(["utilisation", "pool", "hr_off"], tiny_config())
    assert [one.name for one in ablations] == ["hr_off", "grey_vit", "pool"]
    everything = parse_ablations(["all"], tiny_config())
    assert {one.kind for one in everything} == set(ABLATION_KINDS)
    assert len({one.name for one in everything}) == len(everything) == len(ALL_ABLATIONS)
    assert parse_ablations(["shift", "shift:1"], tiny_config()) == [Ablation("shift", 1)]
    assert parse_ablations([], tiny_config()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hr", "--ablate hr: unknown ablation; valid: hr_off, grey_vit"),
        ("", "unknown ablation"),
        ("pool:2", "takes no number; write --ablate pool"),
        ("blur:", "'' is not a positive number"),
        ("blur:0", "'0' is not a positive number"),
        ("blur:-3", "'-3' is not a positive number"),
        ("shift:1.5", "'1.5' is not a positive number"),
        ("shift:" + "9" * 5000, "is not a positive number"),
    ],
)
def test_invalid_names(name, message) -> None:
    with pytest.raises(MGMError) as error:
        check_ablation_names(["pool", name])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("blur:128", {}, "--ablate blur:128: config: fusion.blur_high_resolution is 128"),
        ("shift:4", {}, "--ablate shift:4: config: fusion.window_shift is 4; valid: below 4"),
        ("stage_mean:5", {}, "numbers from 1 to 4"),
        ("pool", {"vision_aux_config": None}, "--ablate pool: .*no high-resolution encoder"),
        ("hr_off", {"vision_aux_config": None}, "--ablate hr_off: .*no high-resolution encoder"),
        ("pool", {"fusion": {"mode": "pool"}}, "the model's config.json already has it"),
        ("hr_only", {"fusion": {"mode": "none"}}, "--ablate hr_only: config: fusion"),
        ("pool", {"fusion": {"mode": "concat"}}, "--ablate pool: .* valid: concat, none"),
        ("hr_only", {"fusion": {"mode": "gate"}}, "whose output contains the tokens"),
    ],
)
def test_ablations_that_do_not_apply(name, config, message) -> None:
    with pytest.raises(MGMError, match=message):
        parse_ablations([name], tiny_config(**config))


def test_all_are_those_that_the_weights_support() -> None:
    config = tiny_config(fusion={"mode": "gate", "stages": (3, 4), "token_pooling": 2})
    names = [ablation.name for ablation in parse_ablations(["all"], config)]
    assert names == ["hr_off", "grey_vit", "shift:1", "blur:28", "stage_mean:4", "stage_mean:3"]
    fusions = [ablation.fusion(config) for ablation in parse_ablations(["all"], config)]
    assert all(fusion.token_pooling == 2 for fusion in fusions)
    assert {fusion.stages for fusion in fusions[1:]} == {(3, 4)}
