"""Invalid values in configs, and values that contradict the weights."""

import json

import pytest
import torch

from mgm.errors import MGMError
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.loading import load_model, save_model
from tests.model.tiny import (
    HD,
    TEXT,
    VISION,
    VISION_AUX,
    batch_of,
    random_images,
    tiny_config,
    tiny_model,
)

NAN = float("nan")
ODD = (-1, 0, 10**12, NAN, float("inf"), 0.5, "x", True, [], {}, 10**39)
COUNTS = [
    *(f"text_config.{name}" for name in ("hidden_size", "num_hidden_layers", "vocab_size")),
    *(f"text_config.{name}" for name in ("num_attention_heads", "max_position_embeddings")),
    *(f"text_config.{name}" for name in ("intermediate_size", "num_local_experts", "head_dim")),
    *(f"vision_config.{name}" for name in ("hidden_size", "num_hidden_layers", "image_size")),
    *(f"vision_config.{name}" for name in ("patch_size", "num_attention_heads")),
    *("image_grid", "image_size_aux"),
]


@pytest.mark.parametrize("field", COUNTS)
def test_invalid_counts(tmp_path, field) -> None:
    save = tiny_config()
    save.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    good = json.loads(file.read_text())
    section, _, name = field.rpartition(".")
    for value in ODD:
        values = json.loads(json.dumps(good))
        (values[section] if section else values)[name] = value
        file.write_text(json.dumps(values))
        with pytest.raises(MGMError) as raised:
            MGMConfig.from_pretrained(tmp_path)
        assert str(raised.value).startswith(f"{file}: {field} is "), value
        assert len(str(raised.value)) < len(str(file)) + 300


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config": TEXT | {"rms_norm_eps": NAN}}, "rms_norm_eps is nan"),
        (
            {"text_config": TEXT | {"num_key_value_heads": 3}},
            "num_key_value_heads is 3; valid: a d",
        ),
        ({"text_config": TEXT | {"rope_theta": -1.0}}, "rope_theta is -1.0"),
        (
            {"text_config": TEXT | {"rope_scaling": {"rope_type": "linear", "factor": NAN}}},
            r"rope_scaling\.factor is nan",
        ),
        ({"text_config": TEXT | {"tie_word_embeddings": "yes"}}, "tie_word_embeddings is 'yes'"),
        ({"text_config": TEXT | {"eos_token_id": "2"}}, "eos_token_id is '2'"),
        ({"text_config": TEXT | {"eos_token_id": []}}, "eos_token_id is "),
        ({"vision_config": VISION | {"patch_size": 56}}, "patch_size is 56; valid: at most"),
        ({"vision_config": VISION | {"image_std": [1, 0, 1]}}, "image_std is "),
        ({"vision_aux_config": VISION_AUX | {"depths": [1, 1, 10**9, 1]}}, "depths is "),
        ({"projector_type": "mlp999999999x_gelu"}, "projector_type is "),
        ({"text_config": TEXT | {"pad_token_id": 40}}, "pad_token_id is 40; valid: below the"),
        ({"text_config": TEXT | {"num_mtp_layers": 10**9}}, r"num_mtp_layers is 1000000000; v"),
        (
            {"text_config": TEXT | {"attention_types": [[["x"], 10**9]]}},
            r"attention_types\.0\.1 is",
        ),
        ({"text_config": TEXT | {"x" * 10**5: NAN}}, r"config\.x{100}…x{100} is nan; valid"),
        ({"image_token_id": True}, "image_token_id is True"),
        ({"optimize_vision_tower": 1}, "optimize_vision_tower is 1"),
    ],
)
def test_invalid_values(changes, message) -> None:
    with pytest.raises(MGMError, match=message):
        tiny_config(**changes)


PARTS = ("", "text_config", "vision_config", "vision_aux_config")


def _with_field(folder, section, field, value):
    file = folder / "config.json"
    values = json.loads(file.read_text())
    (values[section] if section else values)[field] = value
    file.write_text(json.dumps(values))


@pytest.mark.parametrize("section", PARTS)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_labels", 10**9),
        ("num_labels", None),
        ("return_dict", False),
        ("return_dict", None),
        ("is_encoder_decoder", True),
        ("sub_configs", 5),
        ("to_dict", 1),
        ("attribute_map", {"hidden_size": "x"}),
    ],
)
def test_invalid_common_fields(tmp_path, section, field, value) -> None:
    tiny_config().save_pretrained(tmp_path)
    _with_field(tmp_path, section, field, value)
    with pytest.raises(MGMError) as raised:
        MGMConfig.from_pretrained(tmp_path)
    name = f"{section}.{field}" if section else field
    assert str(raised.value).startswith(f"{tmp_path / 'config.json'}: {name} is ")


HARMLESS = {
    "output_attentions": True,
    "output_hidden_states": True,
    "torchscript": True,
    "use_cache": False,
    "is_decoder": True,
    "add_cross_attention": True,
    "pruned_heads": {"0": [0]},
    "tie_encoder_decoder": True,
    "use_bfloat16": True,
    "chunk_size_feed_forward": 1,
    "num_labels": 3,
    "problem_type": "regression",
    "gradient_checkpointing": True,
    "pretraining_tp": 4,
}


@pytest.mark.parametrize("section", PARTS)
def test_common_fields_without_effect(tmp_path, section) -> None:
    model = tiny_model()
    save_model(model, tmp_path / "m")
    for field, value in HARMLESS.items():
        _with_field(tmp_path / "m", section, field, value)
    inputs = batch_of(model.config, ["aIb"]) | random_images(model.config, 1)
    with torch.no_grad():
        output = load_model(tmp_path / "m").generate(**inputs, max_new_tokens=4)
        assert torch.equal(output, model.generate(**inputs, max_new_tokens=4))


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("text_config", "num_hidden_layers", 9999),
        ("text_config", "num_hidden_layers", 1),
        ("text_config", "hidden_size", 2**20),
        ("text_config", "vocab_size", 10**8),
        ("text_config", "intermediate_size", 33),
        ("text_config", "num_key_value_heads", 2),
        ("vision_config", "num_hidden_layers", 9999),
        ("vision_config", "hidden_size", 32),
        ("vision_config", "intermediate_size", 64),
        ("vision_config", "image_size", 35),
        ("vision_aux_config", "depths", [1, 1, 9999, 1]),
        ("vision_aux_config", "dims", [4, 8, 12, 2**20]),
    ],
)
def test_values_that_the_weights_contradict(tmp_path, monkeypatch, section, field, value) -> None:
    save_model(tiny_model(), tmp_path / "m")
    file = tmp_path / "m/config.json"
    values = json.loads(file.read_text())
    values[section] |= {field: value}
    values["image_size_aux"] = 640  # divides every number of tokens here
    file.write_text(json.dumps(values))
    monkeypatch.setattr("mgm.model.modeling_mgm.MGMForConditionalGeneration.__init__", None)
    with pytest.raises(MGMError, match=rf"config\.json: {section}\.{field} is .* weights|shape"):
        load_model(tmp_path / "m")


def test_valid_models() -> None:
    tiny_config(**HD)
    tiny_config(text_config=TEXT | {"pad_token_id": -1, "eos_token_id": [2, 7]})
    scaling = {"rope_type": "linear", "factor": 2.0}
    tiny_config(text_config=TEXT | {"rope_scaling": scaling, "head_dim": None})
