import json

import pytest

from mgm.errors import MGMError
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.vision.fusion.fusion_config import FusionConfig
from mgm.model.vision.fusion.fusion_sizes import FusionSizes
from tests.model.tiny import HD, tiny_config

CHANGED = [
    {"mode": "pool", "token_pooling": 2},
    {"mode": "one_query", "stages": (3, 4), "averaged_stages": (3,)},
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
    assert FusionConfig(stages=[4, 3, 4]) == FusionConfig(stages=(3, 4))


@pytest.mark.parametrize(
    ("fusion", "message"),
    [
        ("pool", 'fusion is \'pool\'; valid: an object such as {"mode": "pool"}, or null'),
        ("x", "fusion is 'x'; valid: an object, or null"),
        ([], "fusion is []; valid: an object, or null"),
        ({"fusion": "pool"}, "fusion.fusion is no field; valid: mode, stages"),
        ({"kind": "pool"}, "fusion.kind is no field; valid: mode, stages"),
        ({"mode": "concatenate"}, "fusion.mode is 'concatenate'; valid: mining, one_query"),
        ({"high_resolution_only": 1}, "fusion.high_resolution_only is 1; valid: true or false"),
        ({"blur_high_resolution": 0}, "fusion.blur_high_resolution is 0; valid: an integer from 1"),
        ({"blur_high_resolution": 128}, "valid: fewer pixels than image_size_aux, 128"),
        ({"averaged_stages": 1}, "is 1; valid: a list, each item an integer from 1"),
        ({"averaged_stages": [5]}, "valid: numbers from 1 to 4, the encoder has so many stages"),
        ({"window_shift": -1}, "fusion.window_shift is -1; valid: an integer from 0"),
        ({"window_shift": 4}, "fusion.window_shift is 4; valid: below 4"),
        ({"query": [1.0] * 16}, 'valid: null, or mode "one_query"'),
        ({"mode": "one_query", "query": [1.0] * 16}, 'null: a model of mode "one_query" learns'),
        ({"mode": "one_query", "query": [float("nan")] * 16}, "each item a number, or null"),
        ({"mode": "one_query", "query": []}, "valid: a number for each channel, or null"),
        ({"mode": "none", "high_resolution_only": True}, 'its default beside mode "none"'),
        ({"mode": "none", "window_shift": 1}, 'its default beside mode "none"'),
        ({"mode": "none", "stages": [4]}, 'its default beside mode "none"'),
        ({"mode": "concat", "high_resolution_only": True}, 'false beside mode "concat"'),
        ({"stages": []}, "fusion.stages is (); valid: one stage or more, or null for all"),
        ({"stages": [0]}, "fusion.stages is [0]; valid: a list, each item an integer from 1"),
        ({"stages": [5]}, "fusion.stages is (5,); valid: numbers from 1 to 4"),
        ({"stages": [3, 4], "averaged_stages": [2]}, "valid: stages that are used, [3, 4]"),
        ({"token_pooling": 0}, "fusion.token_pooling is 0; valid: an integer from 1"),
        ({"token_pooling": 3}, "is 3; valid: a divisor of 4, the low-resolution encoder's patches"),
        ({"token_pooling": 4, "window_shift": 1}, "fusion.window_shift is 1; valid: below 1"),
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
        {"mode": "pool"},
        {"stages": [4]},
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
    fusion = FusionConfig(grey_low_resolution=True, token_pooling=2)
    assert tiny_config(vision_aux_config=None, fusion=fusion).fusion == fusion


def test_mode_none_leaves_the_high_resolution_encoder_out() -> None:
    config = tiny_config(fusion={"mode": "none"})
    assert config.vision_aux_config is None
    config.vision_aux_config = tiny_config().vision_aux_config
    with pytest.raises(MGMError, match=r"fusion.mode is 'none'; valid: another, or vision_aux_con"):
        config.check()


def test_pooled_tokens_have_wider_windows() -> None:
    config = tiny_config(**HD, fusion={"token_pooling": 2})
    assert (config.tokens_per_side, config.pixels_per_token) == (2, 14)
    assert (config.window, tiny_config(**HD).window) == (16, 8)
    assert config.image_tokens_per_image == tiny_config(**HD).image_tokens_per_image // 4
    assert config.fusion_sizes.stage_windows == (16, 8, 4, 2)


def test_the_finest_stage_that_is_used_has_to_divide_into_windows() -> None:
    assert tiny_config(fusion={"stages": [3, 4]}).fusion_sizes == FusionSizes(16, (12, 16), (2, 1))
    assert tiny_config(image_size_aux=64).window == 4
    with pytest.raises(MGMError, match=r"multiple of 128, .* \(32 pixels per position x 4 tokens"):
        tiny_config(image_size_aux=64, fusion={"stages": [4]})


@pytest.mark.parametrize(
    ("built", "given", "message"),
    [
        ({}, {"mode": "concat"}, "'concat'; valid: pool, one_query, mining, none, this model has"),
        (
            {"mode": "concat"},
            {"mode": "pool"},
            "valid: concat, none, this model has the weights",
        ),
        ({"mode": "pool"}, {"mode": "mining"}, "fusion.mode is 'mining'; valid: pool, none"),
        ({}, {"token_pooling": 2}, "fusion.token_pooling is 2; valid: 1, as the model was built"),
        ({"stages": [4]}, {"stages": [3, 4]}, "fusion.stages is (3, 4); valid: (4,), as the model"),
        ({"token_pooling": 2}, {"mode": "none"}, "fusion.token_pooling is 1; valid: 2"),
        ({}, {"mode": "one_query", "query": [1.0]}, "valid: 16 numbers, or null"),
        (
            {"mode": "one_query"},
            {"mode": "one_query", "query": [1.0] * 16},
            "valid: null: the model has a query",
        ),
        ({"mode": "none"}, {}, "fusion.mode is 'mining'; valid: the default, this model has no"),
    ],
)
def test_settings_at_inference_fit_the_weights(built, given, message: str) -> None:
    config = tiny_config(fusion=built)
    with pytest.raises(MGMError) as error:
        FusionConfig(**given).check_inference(config)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("built", "given"),
    [
        ({}, {"mode": "one_query", "query": [1.0] * 16}),
        ({}, {"mode": "pool", "blur_high_resolution": 28}),
        ({"mode": "gate"}, {"mode": "none"}),
        ({"mode": "concat", "stages": [4]}, {"mode": "none", "grey_low_resolution": True}),
        ({"mode": "none"}, {"mode": "none", "grey_low_resolution": True}),
        ({"mode": "pool", "token_pooling": 2}, {"mode": "pool", "token_pooling": 2}),
    ],
)
def test_ablations_at_inference(built, given) -> None:
    FusionConfig(**given).check_inference(tiny_config(fusion=built))


def test_the_flag_is_a_mode_or_an_object() -> None:
    assert FusionConfig.from_flag("gate") == FusionConfig(mode="gate")
    text = '{"mode": "pool", "stages": [4], "token_pooling": 2}'
    assert FusionConfig.from_flag(text) == FusionConfig("pool", (4,), 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max", "--fusion 'max': config: fusion.mode is 'max'; valid: mining, one_query, pool"),
        ('{"mode": "pool"', '--fusion \'{"mode": "pool"\': no valid JSON'),
        ('{"modes": 1}', "fusion.modes is no field; valid: mode, stages"),
        ("", "fusion.mode is ''; valid: mining"),
    ],
)
def test_wrong_flags_have_clear_errors(text: str, message: str) -> None:
    with pytest.raises(MGMError) as error:
        FusionConfig.from_flag(text)
    assert message in str(error.value)
    assert str(error.value).endswith('such as \'{"mode": "pool", "token_pooling": 2}\'')
    assert "\n" not in str(error.value)
