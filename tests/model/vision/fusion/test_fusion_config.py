import json

import pytest

from mgm.errors import MGMError
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.vision.fusion.fusion_config import FusionConfig
from tests.model.tiny import HD, tiny_config

CHANGED = [
    {"mode": "pool"},
    {"mode": "one_query", "query": (0.5,) * 16},
    {"mode": "none", "grey_low_resolution": True},
    {
        "high_resolution_only": True,
        "blur_high_resolution": 28,
        "averaged_stages": (1, 4),
        "window_shift": 3,
    },
]


@pytest.mark.parametrize("changes", CHANGED)
def test_what_differs_is_saved_and_read_again(tmp_path, changes) -> None:
    config = tiny_config(fusion=FusionConfig(**changes))
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["fusion"] == json.loads(json.dumps(changes))
    read = MGMConfig.from_pretrained(tmp_path)
    assert read.fusion == config.fusion == FusionConfig.from_json(saved["fusion"])
    assert tiny_config(fusion=saved["fusion"]).fusion == config.fusion


def test_the_default_is_not_saved(tmp_path) -> None:
    config = tiny_config()
    assert config.fusion == FusionConfig()
    config.save_pretrained(tmp_path)
    assert "fusion" not in json.loads((tmp_path / "config.json").read_text())
    assert MGMConfig.from_pretrained(tmp_path).fusion == FusionConfig()
    assert tiny_config(fusion={"mode": "mining", "averaged_stages": []}).to_dict().keys() == (
        config.to_dict().keys()
    )


def test_stages_are_a_set() -> None:
    assert FusionConfig(averaged_stages=[4, 1, 4]) == FusionConfig(averaged_stages=(1, 4))


@pytest.mark.parametrize(
    ("fusion", "message"),
    [
        ("pool", 'fusion is \'pool\'; valid: an object such as {"mode": "pool"}, or null'),
        ("x", "fusion is 'x'; valid: an object, or null"),
        ([], "fusion is []; valid: an object, or null"),
        ({"fusion": "pool"}, "fusion.fusion is no field; valid: mode, high_resolution_only"),
        ({"kind": "pool"}, "fusion.kind is no field; valid: mode, high_resolution_only"),
        ({"mode": "concatenate"}, "fusion.mode is 'concatenate'; valid: mining, pool"),
        ({"high_resolution_only": 1}, "fusion.high_resolution_only is 1; valid: true or false"),
        ({"blur_high_resolution": 0}, "fusion.blur_high_resolution is 0; valid: an integer from 1"),
        ({"blur_high_resolution": 128}, "valid: fewer pixels than image_size_aux, 128"),
        ({"averaged_stages": 1}, "is 1; valid: a list, each item an integer from 1"),
        ({"averaged_stages": [5]}, "valid: numbers from 1 to 4, the encoder has so many stages"),
        ({"window_shift": -1}, "fusion.window_shift is -1; valid: an integer from 0"),
        ({"window_shift": 4}, "fusion.window_shift is 4; valid: below 4"),
        ({"query": [1.0] * 16}, 'valid: null, or mode "one_query"'),
        ({"mode": "one_query", "query": [1.0]}, "valid: 16 numbers, or null"),
        ({"mode": "one_query", "query": [float("nan")] * 16}, "each item a number, or null"),
        ({"mode": "one_query", "query": []}, "valid: a number for each channel, or null"),
        ({"mode": "none", "high_resolution_only": True}, 'its default beside mode "none"'),
        ({"mode": "none", "window_shift": 1}, 'its default beside mode "none"'),
    ],
)
def test_invalid_settings(fusion, message: str) -> None:
    with pytest.raises(MGMError) as error:
        tiny_config(fusion=fusion)
    assert message in str(error.value)
    assert str(error.value).startswith("config: fusion")
    assert "\n" not in str(error.value)


def test_a_shift_leaves_the_windows_of_a_crop(tmp_path) -> None:
    assert tiny_config(**HD, fusion={"window_shift": 3}).fusion.window_shift == 3


@pytest.mark.parametrize(
    "fusion",
    [
        {"mode": "none"},
        {"mode": "pool"},
        {"high_resolution_only": True},
        {"blur_high_resolution": 28},
        {"averaged_stages": [1]},
        {"window_shift": 1},
    ],
)
def test_without_a_high_resolution_encoder_there_is_nothing_to_change(fusion) -> None:
    with pytest.raises(MGMError, match="this model has no high-resolution encoder"):
        tiny_config(vision_aux_config=None, fusion=fusion)


def test_without_a_high_resolution_encoder_the_other_may_see_grey() -> None:
    fusion = FusionConfig(grey_low_resolution=True)
    assert tiny_config(vision_aux_config=None, fusion=fusion).fusion == fusion
