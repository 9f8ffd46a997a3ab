import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, PreTrainedModel

from mgm.auto import register
from mgm.errors import MGMError
from mgm.model.loading import load_model, save_model
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from tests.golden_files import golden
from tests.model.tiny import HD, TEXT, VISION, batch_of, random_images, tiny_model
from tests.tiny_model import build

register()
GEMMA = TEXT | {
    "model_type": "gemma",
    "head_dim": 12,
    "hidden_act": "gelu",
    "tie_word_embeddings": True,
}
MIXTRAL = TEXT | {"model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2}
TIED = TEXT | {"tie_word_embeddings": True}


def same_weights(ours, theirs) -> bool:
    first, second = ours.state_dict(), theirs.state_dict()
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


@pytest.mark.parametrize(
    "text", [TEXT, TIED, GEMMA, MIXTRAL], ids=["llama", "tied", "gemma", "mixtral"]
)
def test_native_round_trip_is_exact(tmp_path, text) -> None:
    model = tiny_model(text_config=text, **HD)
    model.generation_config.eos_token_id = [2, 7]
    save_model(model, tmp_path / "saved")
    inputs = batch_of(model.config, ["abIc"]) | random_images(model.config, 1)
    for load in (load_model, AutoModelForImageTextToText.from_pretrained):
        again = load(tmp_path / "saved")
        assert isinstance(again, MGMForConditionalGeneration)
        assert not again.training
        assert same_weights(again, model)
        assert again.generation_config.eos_token_id == [2, 7]
        with torch.no_grad():
            assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def test_tied_embeddings(tmp_path) -> None:
    save_model(tiny_model(text_config=TIED), tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    assert again.get_input_embeddings().weight is again.get_output_embeddings().weight
    assert "language_model.lm_head.weight" not in load_file(tmp_path / "saved/model.safetensors")


def test_shards(tmp_path) -> None:
    model = tiny_model()
    save_model(model, tmp_path / "saved", max_shard_size="20KB")
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 1
    assert same_weights(load_model(tmp_path / "saved"), model)


def test_dtype_and_device(tmp_path) -> None:
    save_model(tiny_model().bfloat16(), tmp_path / "saved")
    assert load_model(tmp_path / "saved").dtype == torch.bfloat16
    assert load_model(tmp_path / "saved", dtype=torch.float32, device="cpu").dtype == torch.float32
    assert load_model(tmp_path / "saved", dtype="float32").dtype == torch.float32


@pytest.mark.parametrize("name", ["MGM-7B", "MGM-7B-HD", "MGM-2B", "MGM-8x7B"])
def test_published_becomes_native(tmp_path, name: str) -> None:
    model = load_model(golden(f"work_dirs/MGM/{name}"))
    save_model(model, tmp_path / "saved")
    names = load_file(tmp_path / "saved/model.safetensors")
    assert all(name.split(".")[0] in dict(model.named_children()) for name in names)
    again = load_model(tmp_path / "saved")
    assert same_weights(again, model)
    assert again.config.text_config.hidden_act == model.config.text_config.hidden_act


def test_published_checkpoint_needs_no_tower_folders(tmp_path) -> None:
    source = golden("work_dirs/MGM/MGM-7B")
    shutil.copytree(source, tmp_path / "any name")
    assert same_weights(load_model(tmp_path / "any name"), load_model(source))


def test_published_checkpoint_in_one_file(tmp_path) -> None:
    source = golden("work_dirs/MGM/MGM-7B")
    weights = {k: v for file in source.glob("*.safetensors") for k, v in load_file(file).items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(source / "config.json", tmp_path)
    assert same_weights(load_model(tmp_path), load_model(source))


@pytest.fixture
def saved(tmp_path):
    save_model(tiny_model(), tmp_path / "saved")
    return tmp_path / "saved"


def fault(path) -> str:
    with pytest.raises(MGMError) as raised:
        load_model(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_missing_folder(tmp_path) -> None:
    assert "no such folder" in fault(tmp_path / "nothing")


def test_unreachable_repository(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "no download from the hub" in fault("owner/model")


def test_folder_without_config(saved) -> None:
    (saved / "config.json").unlink()
    assert "has no config.json" in fault(saved)


def test_config_that_is_not_json(saved) -> None:
    (saved / "config.json").write_text("{")
    assert "not valid JSON" in fault(saved)


@pytest.mark.parametrize("content", ["[]", '"mgm"'])
def test_config_that_is_not_an_object(saved, content) -> None:
    (saved / "config.json").write_text(content)
    assert "not an object" in fault(saved)


def test_unsupported_model_type(saved) -> None:
    (saved / "config.json").write_text(json.dumps({"model_type": "llava"}))
    message = fault(saved)
    assert "model_type is 'llava'" in message
    assert "mgm_gemma" in message


def change_config(folder, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_invalid_config_value(saved) -> None:
    change_config(saved, projector_type="magic")
    assert f"{saved}/config.json: projector_type is 'magic'" in fault(saved)


def test_config_without_a_possible_model(saved) -> None:
    change_config(saved, text_config=TEXT | {"hidden_act": "magic"})
    assert f"{saved}/config.json: is not a valid model config (KeyError: 'magic')" in fault(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config": None}, "config.json: text_config is None"),
        ({"text_config": {"model_type": "llama"}}, r"vocab_size is 32000, and .* shape \(40, "),
        (
            {"text_config": TEXT | {"num_hidden_layers": 99}},
            r"text_config.num_hidden_layers is 99, and the weights in .* have 2; copy",
        ),
        ({"text_config": TEXT | {"model_type": "mixtral"}}, r"missing \(language_model.model.l"),
        (
            {"vision_config": VISION | {"num_hidden_layers": 99}},
            r"vision_config.num_hidden_layers is 99, and the weights in .* have 3; copy both",
        ),
    ],
)
def test_config_mismatch_allocates_no_memory(saved, monkeypatch, changes, message) -> None:
    change_config(saved, **changes)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", None)  # not executed
    assert re.search(message, fault(saved))


def test_folder_without_weights(saved) -> None:
    (saved / "model.safetensors").unlink()
    assert "has no weights" in fault(saved)


@pytest.mark.parametrize("size", [0, 5, 1000, -10])
def test_truncated_weights(saved, size: int) -> None:
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    message = fault(saved)
    assert "model.safetensors" in message
    assert "copy it again" in message


def test_missing_shard(tmp_path) -> None:
    save_model(tiny_model(), tmp_path / "saved", max_shard_size="20KB")
    next((tmp_path / "saved").glob("*.safetensors")).unlink()
    assert "are missing, first model-" in fault(tmp_path / "saved")


LONG = "x" * 100_000


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors.index.json", {"weight_map": {LONG: "model.safetensors"}}),
        ("model.safetensors.index.json", {"weight_map": {"a": f"{LONG}.safetensors"}}),
        ("config.json", {"model_type": LONG}),
        ("config.json", {"model_type": "mgm", "text_config": {LONG: float("nan")}}),
        ("config.json", {"model_type": "mgm", "hidden_size": 8, "rope_scaling": {"type": LONG}}),
        ("config.json", {"model_type": "mgm", "quantization_config": {"quant_method": LONG}}),
        ("generation_config.json", {"top_k": LONG}),
    ],
)
def test_long_names_and_values_are_shortened(saved, file, content) -> None:
    (saved / file).write_text(json.dumps(content))
    message = fault(saved)
    assert message.startswith(f"{saved / file}: ")
    assert len(message) < 1000


def test_missing_and_unexpected_names(saved) -> None:
    weights = load_file(saved / "model.safetensors")
    weights["surplus"] = weights.pop("mining.query.bias")
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    message = fault(saved)
    assert "1 missing (mining.query.bias)" in message
    assert "1 unexpected (surplus)" in message


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mining.key.weight", None, r": weights do not fit .* 1 missing \(mining.key.weight\)"),
        ("projector.0.weight", torch.zeros(2, 2), r": projector.0.weight has shape \(2, 2\)"),
        ("projector.0.bias", torch.zeros(24).int(), r": projector.0.bias is of torch.int32"),
    ],
)
def test_missing_weights_are_not_initialised(saved, name, value, message) -> None:
    weights = load_file(saved / "model.safetensors")
    weights |= {name: value}
    kept = {name: weight for name, weight in weights.items() if weight is not None}
    save_file(kept, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MGMError, match=rf"{saved}/model\.safetensors{message}"):
        AutoModelForImageTextToText.from_pretrained(saved, ignore_mismatched_sizes=True)


def test_output_loading_info(saved) -> None:
    model, report = MGMForConditionalGeneration.from_pretrained(saved, output_loading_info=True)
    assert isinstance(model, MGMForConditionalGeneration)
    assert not report["missing_keys"]


def test_wrong_shapes(saved) -> None:
    weights = load_file(saved / "model.safetensors")
    weights["mining.query.bias"] = torch.zeros(3)
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    assert "mining.query.bias has shape (3,), by config.json (16,); copy both" in fault(saved)


def test_failed_save(tmp_path, monkeypatch) -> None:
    def full(*_args, **_kwargs) -> None:
        raise OSError(28, "No space left on device")

    model = tiny_model()
    monkeypatch.setattr(MGMForConditionalGeneration, "save_pretrained", full)
    with pytest.raises(MGMError, match="No space left"):
        save_model(model, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_text_only_loads_no_tower(tmp_path) -> None:
    model = tiny_model()
    save_model(model, tmp_path / "saved")
    texts = load_model(tmp_path / "saved", text_only=True)
    assert {name.split(".")[0] for name in texts.state_dict()} == {"language_model"}
    inputs = batch_of(model.config, ["abc", "defgh"], left=True)
    with torch.no_grad():
        assert torch.equal(texts(**inputs).logits, model(**inputs).logits)
        with pytest.raises(MGMError, match="was loaded with text_only=True; load it without"):
            texts(**batch_of(model.config, ["aIb"]), **random_images(model.config, 1))
    with pytest.raises(MGMError, match="was loaded without its vision side; load it whole"):
        save_model(texts, tmp_path / "again")


def test_quantised_models_cannot_be_saved(tmp_path) -> None:
    save_model(tiny_model(), tmp_path / "saved")
    with pytest.raises(
        MGMError, match="was loaded with quantised weights; load it whole to save it"
    ):
        save_model(load_model(tmp_path / "saved", quantize="int8"), tmp_path / "again")
    assert not (tmp_path / "again").exists()


WHOLE_ON_DISK = {"": "disk"}
HEAD_APART = {
    **dict.fromkeys(("vision_tower", "vision_tower_aux", "mining", "projector"), "cpu"),
    "language_model.model": "disk",
    "language_model.lm_head": "cpu",
}
EMBEDDINGS_APART = HEAD_APART | {"language_model.model": "cpu", "language_model.lm_head": "disk"}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("device_map", "memory"),
    [
        ("auto", None),
        ("auto", {"cpu": "150KB"}),  # less than the size of the model
        (WHOLE_ON_DISK, None),
        (HEAD_APART, None),
        (EMBEDDINGS_APART, None),
    ],
)
def test_device_map_with_disk_offload(tmp_path, tied, device_map, memory) -> None:
    folder = build(tmp_path / "model", tie_word_embeddings=tied)
    whole = load_model(folder)
    options = {"offload_folder": str(tmp_path / "offloaded"), "max_memory": memory}
    try:
        spread = MGMForConditionalGeneration.from_pretrained(
            folder, device_map=device_map, **options
        )
    except ValueError as error:  # of accelerate before 1.15, for every model
        if "whole model to the disk" not in str(error):
            raise
        pytest.skip("this accelerate leaves no whole model on the disk")
    image = [whole.config.image_token_id] * whole.config.image_tokens_per_image
    inputs = {
        "input_ids": torch.tensor([[1, *range(10, 20), *image, 20]]),
        "pixel_values_aux": torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8),
    }
    with torch.no_grad():
        assert torch.equal(spread(**inputs).logits, whole(**inputs).logits)
    spread.save_pretrained(tmp_path / "again")
    again = load_model(tmp_path / "again").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.state_dict().items())
    if device_map == "auto" and memory is None and tied:
        language = spread.language_model
        assert language.lm_head.weight is language.get_input_embeddings().weight
