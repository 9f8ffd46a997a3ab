import json

import pytest
from transformers import AutoConfig, SiglipVisionConfig

from mgm.auto import register
from mgm.errors import MGMError
from mgm.model.configuration_mgm import MGMConfig
from tests.golden_files import golden, golden_json
from tests.model.tiny import HD, TEXT, VISION, tiny_config

register()


def test_geometry() -> None:
    config = tiny_config()
    assert (config.image_size, config.tokens_per_side, config.crops) == (28, 4, 1)
    assert config.image_tokens_per_image == 16
    assert config.window == 8
    large = tiny_config(**HD)
    assert large.crops == 5
    assert large.image_tokens_per_image == 80
    assert large.window == 8


def test_default_is_the_published_geometry() -> None:
    config = MGMConfig(vision_aux_config={})
    assert (config.image_size, config.image_tokens_per_image, config.window) == (336, 576, 8)
    assert config.vision_aux_config.dims == [192, 384, 768, 1536]
    assert config.image_token_id == config.text_config.vocab_size


@pytest.mark.parametrize(
    ("field", "value", "valid"),
    [
        ("projector_type", "mlp_gelu", "linear, mlpNx_gelu"),
        ("projector_type", "identity", "another type"),
        ("image_grid", 0, "an integer from 1"),
        ("image_global", True, "image_grid 2 or more"),
        ("image_size_aux", 100, "a multiple of 16"),
        ("image_size_aux", -16, "an integer from 1"),
        ("image_aspect_ratio", "anyres", "pad, square"),
        ("vision_feature_layer", -5, "an integer from -4 to 3"),
        ("vision_feature_select", "cls_patch", "patch"),
        ("image_token_id", -200, "an integer from 0"),
    ],
)
def test_invalid_values(field: str, value: object, valid: str) -> None:
    with pytest.raises(MGMError) as fault:
        tiny_config(**{field: value})
    message = str(fault.value)
    assert field in message
    assert repr(value) in message
    assert valid in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("vision", "image_grid", "size", "nearest"),
    [
        ({"patch_size": 14, "image_size": 384}, 1, 768, "108, the nearest 756 or 864"),
        ({"patch_size": 14, "image_size": 384}, 2, 1536, "216, the nearest 1512 or 1728"),
        ({"patch_size": 14, "image_size": 384}, 2, 100, "216, the nearest 216"),
        ({"patch_size": 16, "image_size": 224}, 1, 768, "56, the nearest 728 or 784"),
    ],
)
def test_sizes_that_do_not_fit(vision, image_grid, size, nearest) -> None:
    vision = {"model_type": "siglip_vision_model", **vision}
    with pytest.raises(MGMError) as fault:
        tiny_config(vision_config=vision, image_grid=image_grid, image_size_aux=size)
    side = vision["image_size"] // vision["patch_size"]
    assert str(fault.value) == (
        f"config: image_size_aux is {size}; valid: a multiple of {nearest}, so that the map "
        f"divides into a window for each token (4 pixels per position x {side} tokens per side x "
        f"image_grid {image_grid})"
    )


@pytest.mark.parametrize(
    ("patch_size", "image_size", "image_size_aux", "tokens"),
    [(16, 224, 896, 196), (16, 256, 768, 256), (16, 384, 768, 576), (14, 384, 864, 729)],
)
def test_sizes_that_fit(patch_size, image_size, image_size_aux, tokens) -> None:
    vision = {"model_type": "siglip_vision_model", "patch_size": patch_size}
    vision["image_size"] = image_size
    config = tiny_config(vision_config=vision, image_size_aux=image_size_aux)
    assert config.image_tokens_per_image == tokens
    assert config.window * config.tokens_per_side * 4 == image_size_aux
    assert (config.image_mean, config.image_std) == ([0.5] * 3, [0.5] * 3)
    assert config.image_mean_aux[0] == 0.48145466


def test_unknown_vision_transformer() -> None:
    with pytest.raises(MGMError, match="model_type is 'beit'; valid: clip_vision_model, siglip"):
        tiny_config(vision_config={"model_type": "beit"})


def test_other_parts_survive_json(tmp_path) -> None:
    vision = VISION | {"model_type": "siglip_vision_model", "image_mean": [0.4] * 3}
    aux = {"depths": [1, 1, 1, 1], "dims": [4, 8, 12, 16], "use_grn": True, "conv_mlp": True}
    aux |= {"ls_init_value": None, "image_std": [0.2] * 3, "norm_layer": "rmsnorm2d"}
    config = tiny_config(vision_config=vision, vision_aux_config=aux)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again.vision_config) is type(config.vision_config) is SiglipVisionConfig
    assert again.vision_config.to_dict() == config.vision_config.to_dict()
    assert again.vision_aux_config.to_dict() == config.vision_aux_config.to_dict()
    assert again.vision_aux_config.ls_init_value is None
    assert (again.image_mean, again.image_std_aux) == ([0.4] * 3, [0.2] * 3)


def test_unknown_language_model() -> None:
    with pytest.raises(MGMError, match="model_type is 'elephant'"):
        tiny_config(text_config=TEXT | {"model_type": "elephant"})


def test_round_trip_through_json(tmp_path) -> None:
    config = tiny_config(**HD, conversation="nano", model_max_length=300)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(again, MGMConfig)
    assert again.to_dict() | {"_name_or_path": ""} == config.to_dict() | {"_name_or_path": ""}


def test_gemma_keeps_the_activation_it_names(tmp_path) -> None:
    gemma = TEXT | {"model_type": "gemma", "head_dim": 12, "hidden_act": "gelu"}
    tiny_config(text_config=gemma).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).text_config.hidden_act == "gelu"


@pytest.mark.parametrize("name", list(golden_json("models/manifest.json")))
def test_published_config_is_translated(name: str) -> None:
    folder = golden(golden_json("models/manifest.json")[name]["checkpoint"])
    published = json.loads((folder / "config.json").read_text())
    config = AutoConfig.from_pretrained(folder)
    assert type(config) is MGMConfig
    assert config.text_config.hidden_size == published["hidden_size"]
    assert config.text_config.hidden_act == published["hidden_act"]
    assert config.image_grid == published["image_grid"]
    assert config.image_size_aux == published["image_size_aux"]
    assert config.model_max_length == published["tokenizer_model_max_length"]
    assert config.vision_config.hidden_size == published["mm_hidden_size"]
    assert config.vision_config.num_attention_heads == 2
    assert sum(config.vision_aux_config.dims) == published["mm_hidden_size_aux"]
    assert config.vision_aux_config.depths == [1, 1, 2, 1]
    assert config.image_token_id == published["vocab_size"]


def test_published_config_without_weights_means_the_published_towers(tmp_path) -> None:
    folder = golden("work_dirs/MGM/MGM-7B")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.vision_config.hidden_size == 1024
    assert config.vision_aux_config.depths == [3, 3, 27, 3]


def test_published_defaults_for_absent_fields(tmp_path) -> None:
    values = {"model_type": "mgm", "hidden_size": 64, "mm_vision_tower": "clip"}
    values |= {"image_size_aux": 768, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.projector_type == "linear"
    assert (config.image_grid, config.image_global) == (1, False)
    assert config.vision_aux_config is None
    assert config.vision_config.hidden_size != VISION["hidden_size"]


def test_config_of_neither_layout(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mgm", "image_size_aux": 768}')
    with pytest.raises(
        MGMError, match=r"config.json: has neither text_config \(native layout\) nor hidden_size"
    ):
        AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config": None}, "text_config is None; valid: an object"),
        ({"text_config": {}}, "text_config is None; valid: an object"),
        ({"vision_config": "clip"}, "vision_config is 'clip'; valid: an object"),
        ({"image_grid": "2"}, "image_grid is '2'; valid: an integer from 1"),
        ({"vision_config": VISION | {"num_attention_heads": 7}}, "attention heads (7)"),
        (
            {"vision_config": VISION | {"hidden_size": "wide"}},
            "hidden_size is 'wide'; valid: an int",
        ),
        ({"text_config": TEXT | {"hidden_size": 25}}, "The hidden size (25) is not a multiple"),
        ({"text_config": TEXT | {"model_type": ["llama"]}}, "unhashable"),
        ({"dtype": "float99"}, "float99"),
    ],
)
def test_errors_name_the_file(tmp_path, changes, message) -> None:
    tiny_config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    for read in (AutoConfig.from_pretrained, MGMConfig.from_pretrained):
        with pytest.raises(MGMError) as fault:
            read(tmp_path)
        assert str(fault.value).startswith(f"{path}: ")
        assert message in str(fault.value)
        assert "\n" not in str(fault.value)
