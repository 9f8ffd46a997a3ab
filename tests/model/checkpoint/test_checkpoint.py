"""Published weights in every file format load as the same model."""

import json
import logging
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, LlamaConfig, LlamaForCausalLM

from mgm.auto import register
from mgm.data.processing_mgm import MGMProcessor
from mgm.errors import MGMError
from mgm.model.checkpoint.checkpoint import read_checkpoint
from mgm.model.checkpoint.components import save_stage1
from mgm.model.loading import load_model
from mgm.model.published_layout.weight_names import to_native_key
from tests.golden_files import golden
from tests.model.tiny import TEXT, save_towers

register()
NAME = "work_dirs/MGM/MGM-7B"


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


def write(folder: Path, parts: list[dict[str, torch.Tensor]], kind: str) -> Path:
    """Write a checkpoint with the golden config and these shards."""
    folder.mkdir(exist_ok=True)
    shutil.copy(golden(NAME) / "config.json", folder)
    safe = kind == "safetensors"
    stem = "model" if safe else "pytorch_model"
    weight_map = {}
    for number, part in enumerate(parts, start=1):
        file = (
            f"{stem}-{number:05}-of-{len(parts):05}.{kind}" if len(parts) > 1 else f"{stem}.{kind}"
        )
        part = {name: tensor.contiguous() for name, tensor in part.items()}
        save_file(part, folder / file) if safe else torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    if len(parts) > 1:
        index = json.dumps({"metadata": {}, "weight_map": weight_map})
        (folder / f"{stem}.{kind}.index.json").write_text(index)
    return folder


def cut(weights: dict[str, torch.Tensor], count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Distribute tensors over shards at random."""
    draw = random.Random(seed)
    parts: list[dict[str, torch.Tensor]] = [{} for _ in range(count)]
    for name in draw.sample(sorted(weights), len(weights)):
        draw.choice(parts)[name] = weights[name]
    return [part for part in parts if part]


def assert_golden_weights(model) -> None:
    expected = {to_native_key(name): value for name, value in weights_of(golden(NAME)).items()}
    state = model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize(("shards", "seed"), [(1, 0), (2, 1), (7, 2), (40, 3)])
def test_any_sharding(tmp_path, kind, shards, seed) -> None:
    folder = write(tmp_path / "any", cut(weights_of(golden(NAME)), shards, seed), kind)
    assert_golden_weights(load_model(folder))


def test_symlinked_files(tmp_path) -> None:
    (tmp_path / "linked").mkdir()
    for file in golden(NAME).iterdir():
        (tmp_path / "linked" / file.name).symlink_to(file)
    assert_golden_weights(AutoModelForImageTextToText.from_pretrained(tmp_path / "linked"))


def test_file_names_of_transformers(tmp_path) -> None:
    folder = golden(NAME)
    auto = AutoModelForImageTextToText
    for dtype in (torch.bfloat16, "bfloat16"):
        assert auto.from_pretrained(folder, torch_dtype=dtype).dtype == torch.bfloat16
    assert_golden_weights(auto.from_pretrained(folder.parent, subfolder=folder.name))


def test_computed_buffers_are_ignored(tmp_path) -> None:
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "model.vision_tower.vision_tower.vision_model.embeddings.position_ids": torch.arange(577),
    }
    assert_golden_weights(
        load_model(write(tmp_path / "old", [weights_of(golden(NAME)) | extra], "bin"))
    )


def test_tensor_in_two_files(tmp_path) -> None:
    weights = weights_of(golden(NAME))
    folder = write(
        tmp_path / "twice", [weights, {"lm_head.weight": weights["lm_head.weight"]}], "bin"
    )
    with pytest.raises(
        MGMError, match=r"00002.bin: has lm_head.weight, which is in pytorch_model-00001"
    ):
        load_model(folder)


def test_index_with_missing_tensors(tmp_path) -> None:
    folder = write(tmp_path / "more", cut(weights_of(golden(NAME)), 2, 0), "safetensors")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.extra"] = "model-00002-of-00002.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(
        MGMError, match=r"00002-of-00002.safetensors: lacks model.extra, which the index"
    ):
        load_model(folder)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_truncated_shard(tmp_path, kind) -> None:
    folder = write(tmp_path / "cut", cut(weights_of(golden(NAME)), 3, 0), kind)
    file = next(folder.glob(f"*00002-of*.{kind}"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(MGMError, match=rf"{file}: .*copy it again"):
        load_model(folder)


def changed_config(tmp_path: Path, **changes) -> Path:
    folder = tmp_path / "changed"
    shutil.copytree(golden(NAME), folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hidden_size": 128},
            r"hidden_size is 128, and .*embed_tokens.weight in .* has shape \(760, 64\); copy",
        ),
        (
            {"num_hidden_layers": 1},
            r"num_hidden_layers is 1, and the weights in .* have 2; copy both",
        ),
        (
            {"num_hidden_layers": 3},
            r"num_hidden_layers is 3, and the weights in .* have 2; copy both",
        ),
        ({"mm_hidden_size": 1024}, r"mm_hidden_size is 1024; expected 32"),
        ({"mm_hidden_size_aux": 2880}, r"mm_hidden_size_aux is 2880; expected 80, the sum"),
        ({"image_global": True}, r"image_global is True; valid: false, or image_grid 2"),
        ({"mm_vision_select_feature": "cls_patch"}, r"mm_vision_select_feature is 'cls_patch'"),
        (
            {"model_type": "llava"},
            r"model_type is 'llava'; give a folder with one of mgm, mgm_gemma",
        ),
        ({"mm_vision_select_layer": "-2"}, r"mm_vision_select_layer is '-2'; valid: an integer"),
        ({"tokenizer_model_max_length": "x"}, r"tokenizer_model_max_length is 'x'; valid: an int"),
        ({"image_size_aux": 700}, r"image_size_aux is 700; valid: "),
        ({"mm_projector_type": "mlp3x_gelu"}, r"missing \(model.mm_projector.4"),
        ({"rope_scaling": {"type": "magic"}}, r"rope_scaling is {'type': 'magic'}; valid: null, o"),
        ({"rope_scaling": {"factor": 2.0}}, r"rope_scaling is {'factor': 2.0}; valid: null, or an"),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            r"quantization_config is of 'gptq', quantised weights cannot be read; give the",
        ),
    ],
)
def test_config_contradicts_the_weights(tmp_path, changes, message) -> None:
    folder = changed_config(tmp_path, **changes)
    with pytest.raises(MGMError, match=message) as raised:
        load_model(folder)
    assert str(folder) in str(raised.value)


def test_tied_lm_head(tmp_path) -> None:
    model = load_model(changed_config(tmp_path, tie_word_embeddings=True))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    stored = weights_of(golden(NAME))["model.embed_tokens.weight"]
    assert torch.equal(model.get_output_embeddings().weight, stored)


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        (
            "model.vision_tower.",
            r"mm_vision_tower is 'model_zoo/.*', and the weights in .* have no",
        ),
        ("model.vision_tower_aux.", r"\(expected model.vision_tower_aux\.\*\); none is taken"),
    ],
)
def test_weights_of_a_missing_tower(tmp_path, lacking, message) -> None:
    weights = {k: v for k, v in weights_of(golden(NAME)).items() if not k.startswith(lacking)}
    with pytest.raises(MGMError, match=message):
        load_model(write(tmp_path / "lacking", [weights], "safetensors"))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 2), r"{file}: {name} has shape \(3, 2\), by config.json \(64, 64\); copy both from"),
        (None, r"weights do not fit the model: 1 missing \({name}\); use a complete one"),
    ],
)
def test_expert_of_another_shape(tmp_path, shape, message) -> None:
    source = golden("work_dirs/MGM/MGM-8x7B")
    name = "model.layers.1.block_sparse_moe.experts.1.w2.weight"
    weights = weights_of(source)
    del weights[name]
    if shape is not None:
        weights[name] = torch.zeros(shape)
    folder = write(tmp_path / "odd", [weights], "safetensors")
    shutil.copy(source / "config.json", folder)
    with pytest.raises(MGMError, match=message.format(file="model.safetensors", name=name)):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "dimensions"),
    [
        ("model.embed_tokens.weight", 2),
        ("model.vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight", 4),
        ("model.vision_tower.vision_tower.vision_model.embeddings.position_embedding.weight", 2),
    ],
)
def test_tensor_of_another_rank(tmp_path, name, dimensions) -> None:
    weights = weights_of(golden(NAME)) | {name: torch.tensor(1.0)}
    with pytest.raises(
        MGMError, match=rf"{name} has shape \(\); expected {dimensions} dimensions, copy it again"
    ):
        load_model(write(tmp_path / "scalar", [weights], "safetensors"))


def test_embedding_and_head_of_different_models(tmp_path) -> None:
    weights = weights_of(golden(NAME))
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:-1].clone()
    with pytest.raises(
        MGMError,
        match=r"model.embed_tokens.weight has shape \(759, 64\), and lm_head.weight in .* has "
        r"\(760, 64\); expected one shape, copy both from one model",
    ):
        load_model(write(tmp_path / "two", [weights], "safetensors"))


def test_errors_name_weights_that_are_not_experts(tmp_path) -> None:
    source = golden("work_dirs/MGM/MGM-8x7B")
    experts = "model.layers.1.block_sparse_moe.experts."
    weights = {n: tensor for n, tensor in weights_of(source).items() if not n.startswith(experts)}
    dense = "model.layers.1.mlp.down_proj.weight"
    folder = write(tmp_path / "dense", [weights | {dense: torch.zeros(2, 2)}], "safetensors")
    shutil.copy(source / "config.json", folder)
    with pytest.raises(MGMError, match=rf"missing \({experts}.* and 1 unexpected \({dense}\);"):
        load_model(folder)


def test_experts_of_integer_dtype(tmp_path) -> None:
    source = golden("work_dirs/MGM/MGM-8x7B")
    name = "model.layers.1.block_sparse_moe.experts.1.w2.weight"
    weights = weights_of(source)
    weights[name] = weights[name].int()
    folder = write(tmp_path / "whole", [weights], "safetensors")
    shutil.copy(source / "config.json", folder)
    with pytest.raises(MGMError, match=rf"model.safetensors: {name} is of torch.int32; expected"):
        load_model(folder)


def zoo(folder: Path, clip_heads: int = 2) -> None:
    """Write the golden towers to the model_zoo that config.json refers to."""
    shutil.copytree(golden("model_zoo/OpenAI"), folder / "model_zoo/OpenAI")
    config = next((folder / "model_zoo/OpenAI").glob("clip*/config.json"))
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"num_attention_heads": clip_heads}))


@pytest.mark.parametrize("heads", [1, 4])
def test_geometry_follows_the_tower_folder(tmp_path, caplog, heads) -> None:
    zoo(tmp_path, heads)
    shutil.copytree(golden(NAME), tmp_path / "work_dirs/model")
    with caplog.at_level(logging.INFO, "mgm"):
        config = AutoConfig.from_pretrained(tmp_path / "work_dirs/model")
    assert config.vision_config.num_attention_heads == heads
    assert "as " + str(tmp_path) in caplog.text
    caplog.clear()
    shutil.rmtree(tmp_path / "model_zoo")
    with caplog.at_level(logging.INFO, "mgm"):
        config = AutoConfig.from_pretrained(tmp_path / "work_dirs/model")
    assert config.vision_config.num_attention_heads == 2
    assert "from the weights' shapes" in caplog.text


def test_tower_folder_of_another_model_is_ignored(tmp_path, caplog) -> None:
    zoo(tmp_path)
    config = next((tmp_path / "model_zoo/OpenAI").glob("clip*/config.json"))
    config.write_text(config.read_text().replace('"hidden_size": 32', '"hidden_size": 48'))
    shutil.copytree(golden(NAME), tmp_path / "work_dirs/model")
    with caplog.at_level(logging.WARNING, "mgm"):
        assert_golden_weights(load_model(tmp_path / "work_dirs/model"))
    assert "hidden_size 48 (weights: 32)" in caplog.text


@pytest.mark.parametrize("trained", [False, True])
def test_other_convnext_in_the_model_zoo(tmp_path, caplog, trained) -> None:
    zoo(tmp_path)
    folder = tmp_path / "work_dirs/model"
    shutil.copytree(golden(NAME), folder)
    with caplog.at_level(logging.WARNING, "mgm"):
        load_model(folder)
    assert not caplog.records
    file = next((tmp_path / "model_zoo/OpenAI").glob("openclip*/open_clip_pytorch_model.bin"))
    weights = torch.load(file, weights_only=True)
    weights["visual.trunk.stages.2.blocks.0.gamma"] += 1
    torch.save(weights, file)
    config = json.loads((folder / "config.json").read_text())
    config["optimize_vision_tower_aux"] = trained
    (folder / "config.json").write_text(json.dumps(config))
    with caplog.at_level(logging.WARNING, "mgm"):
        assert_golden_weights(load_model(folder))
    warned = "vision_tower_aux.vision_stages.2.blocks.0.gamma differs from" in caplog.text
    assert warned is not trained  # the published code uses the checkpoint's value


def test_tokenizer_with_more_tokens_than_the_model(tmp_path) -> None:
    folder = changed_config(tmp_path)
    (folder / "added_tokens.json").write_text('{"<pad>": 760, "<more>": 761}')
    assert AutoConfig.from_pretrained(folder).image_token_id == 762
    assert AutoConfig.from_pretrained(golden(NAME)).image_token_id == 760


def test_sentencepiece_model_larger_than_the_model(tmp_path) -> None:
    weights = weights_of(golden(NAME))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:700].clone()
    folder = write(tmp_path / "fewer", [weights], "safetensors")
    with pytest.raises(
        MGMError,
        match=r"vocab_size is 760, and model.embed_tokens.weight in .* has 700 rows; expected",
    ):
        load_model(folder)
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 700}
    (folder / "config.json").write_text(json.dumps(config))
    assert load_model(folder).config.image_token_id == 700
    shutil.copy(golden(NAME) / "tokenizer.model", folder)
    rows = len(MGMProcessor.from_pretrained(golden(NAME)).tokenizer.get_vocab()) - 1
    assert load_model(folder).config.image_token_id == rows > 700
    assert MGMProcessor.from_pretrained(folder).image_token_id == rows


@pytest.fixture
def base(tmp_path) -> dict[str, Path]:
    """Language model and towers that published stage 1 starts from, and its flat config."""
    torch.manual_seed(0)
    folders = {"language": tmp_path / "zoo/llm", "clip": tmp_path / "zoo/clip"}
    folders |= {"convnext": tmp_path / "zoo/convnext", "stage1": tmp_path / "work_dirs/stage1"}
    LlamaForCausalLM(LlamaConfig(**TEXT)).save_pretrained(folders["language"])
    save_towers(folders["clip"], folders["convnext"])
    flat = {name: value for name, value in TEXT.items() if name != "model_type"} | {
        "_name_or_path": "zoo/llm",
        "model_type": "mgm",
        "image_size_aux": 128,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": "zoo/clip",
        "mm_vision_tower_aux": "zoo/convnext",
        "torch_dtype": "float32",
    }
    folders["stage1"].mkdir(parents=True)
    (folders["stage1"] / "config.json").write_text(json.dumps(flat))
    return folders


def assembled(base: dict[str, Path]):
    from mgm.model.modeling_mgm import MGMForConditionalGeneration

    model = MGMForConditionalGeneration.from_parts(
        base["language"], base["clip"], base["convnext"], image_size_aux=128
    )
    with torch.no_grad():
        for parameter in (*model.mining.parameters(), *model.projector.parameters()):
            parameter.normal_()
    return model


@pytest.mark.parametrize("towers", [True, False])
def test_stage1_on_its_base(base, towers) -> None:
    model = assembled(base)
    file = base["stage1"] / "mm_projector.bin"
    save_stage1(model, file)
    if not towers:  # as LLaVA's scripts write it
        weights = torch.load(file, weights_only=True)
        kept = {name: value for name, value in weights.items() if "vision_tower" not in name}
        torch.save(kept, file)
    again = load_model(base["stage1"])
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    other = base["language"].rename(base["language"].with_name("moved"))
    with pytest.raises(MGMError, match=r"needs its base model \('zoo/llm' by its config\)"):
        load_model(base["stage1"])
    assert load_model(base["stage1"], base=other).device.type == "cpu"


def test_stage1_without_its_towers(base) -> None:
    save_stage1(assembled(base), base["stage1"] / "mm_projector.bin")
    shutil.rmtree(base["clip"])
    load_model(base["stage1"])  # the file has these weights
    (base["stage1"] / "mm_projector.bin").unlink()
    torch.save({}, base["stage1"] / "mm_projector.bin")
    with pytest.raises(MGMError, match=r"no zoo/clip/config.json here or above it"):
        load_model(base["stage1"])


def test_complete_checkpoint_with_a_base() -> None:
    with pytest.raises(MGMError, match="is a whole model"):
        read_checkpoint(golden(NAME), base="x")
