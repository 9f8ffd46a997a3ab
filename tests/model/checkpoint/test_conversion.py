"""Conversion from the published layout to the native one and back, by the command."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
)

import mgm
from mgm.convert import main
from mgm.data.layout_conversion import convert
from mgm.errors import MGMError
from mgm.model.checkpoint.conversion import plan_conversion
from mgm.model.loading import load_model, save_model
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from tests.golden_files import golden
from tests.model.tiny import TEXT, tiny_model

CHECKPOINTS = ["MGM-7B", "MGM-7B-HD", "MGM-2B", "MGM-2B-HD", "MGM-8x7B"]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


def same_bits(first, second) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name])
        for name in first
    )


def command(monkeypatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["convert", *map(str, words)])
    main()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_round_trip_is_bit_identical(tmp_path, monkeypatch, capsys, name) -> None:
    source = golden(f"work_dirs/MGM/{name}")
    native, back = tmp_path / "native", tmp_path / "back"
    command(monkeypatch, source, native, "--to", "native")
    command(monkeypatch, native, back, "--to", "published")
    assert "tensors" in capsys.readouterr().out
    assert same_bits(weights_of(back), weights_of(source))
    for file in source.glob("*"):
        if not file.name.startswith("model"):
            assert (back / file.name).read_bytes() == file.read_bytes() or json.loads(
                (back / file.name).read_text()
            ) == json.loads(file.read_text()), file.name
    assert all(name.split(".")[0] in ALL_PARTS for name in weights_of(native))
    model = load_model(source)
    again = AutoModelForImageTextToText.from_pretrained(native)
    assert same_bits(again.state_dict(), model.state_dict())
    assert again.config.text_config.hidden_act == model.config.text_config.hidden_act
    processor = AutoProcessor.from_pretrained(native)
    assert processor.conversation == mgm.MGMProcessor.from_pretrained(source).conversation
    assert processor.image_token_id == model.config.image_token_id
    assert AutoTokenizer.from_pretrained(native).chat_template
    assert "pipeline_tag: image-text-to-text" in (native / "README.md").read_text()


ALL_PARTS = {"vision_tower", "vision_tower_aux", "mining", "projector", "language_model"}


def test_converted_model_gives_the_same_answers(tmp_path) -> None:
    source = golden("work_dirs/MGM/MGM-7B")
    convert(source, tmp_path / "native", "native")
    image = golden("images/land640x480.png")
    request = mgm.Request("What is this?", images=[image], max_new_tokens=8)
    answers = [mgm.load(folder).answer([request]) for folder in (source, tmp_path / "native")]
    assert answers[0] == answers[1]


def test_new_published_config_is_equivalent(tmp_path) -> None:
    """Without the original, as for a model that was trained here."""
    source = golden("work_dirs/MGM/MGM-7B-HD")
    convert(source, tmp_path / "native", "native")
    shutil.rmtree(tmp_path / "native/published")
    convert(tmp_path / "native", tmp_path / "back", "published")
    old = json.loads((source / "config.json").read_text())
    new = json.loads((tmp_path / "back/config.json").read_text())
    silent = {"_name_or_path", "transformers_version", "freeze_mm_mlp_adapter", "mm_projector_lr"}
    silent |= {"tune_mm_mlp_adapter", "image_grid_pinpoints"}
    assert {name: new.get(name) for name in old.keys() - silent} == {
        name: old[name] for name in old.keys() - silent
    }
    assert same_bits(weights_of(tmp_path / "back"), weights_of(source))
    assert same_bits(load_model(tmp_path / "back").state_dict(), load_model(source).state_dict())


def test_changes_of_the_native_config_are_converted(tmp_path) -> None:
    convert(golden("work_dirs/MGM/MGM-7B"), tmp_path / "native", "native")
    config = tmp_path / "native/config.json"
    config.write_text(
        config.read_text().replace('"image_aspect_ratio": "pad"', '"image_aspect_ratio": "square"')
    )
    convert(tmp_path / "native", tmp_path / "back", "published")
    flat = json.loads((tmp_path / "back/config.json").read_text())
    assert flat["image_aspect_ratio"] == "square"
    assert flat["mm_vision_tower"] == "model_zoo/OpenAI/clip-vit-large-patch14-336"
    assert load_model(tmp_path / "back").config.image_aspect_ratio == "square"


def test_dry_run_lists_and_writes_nothing(tmp_path, monkeypatch, capsys) -> None:
    source = golden("work_dirs/MGM/MGM-7B")
    command(monkeypatch, source, tmp_path / "native", "--to", "native", "--dry-run")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(weights_of(source)) + 1
    assert (
        "model.vlm_uni_query_projector.1.weight -> mining.query.weight  [32, 32] float32" in lines
    )
    assert "would be written" in lines[-1]
    assert not list(tmp_path.iterdir())


def native(tmp_path: Path, **overrides) -> Path:
    save_model(tiny_model(**overrides), tmp_path / "saved")
    return tmp_path / "saved"


def test_models_without_a_published_form(tmp_path) -> None:
    with pytest.raises(MGMError, match=r"num_attention_heads 2 \(would be 1\)"):
        plan_conversion(native(tmp_path), "published")
    qwen = TEXT | {"model_type": "qwen3", "head_dim": 12}
    with pytest.raises(MGMError, match=r"'qwen3', which has no published form; valid: llama"):
        plan_conversion(native(tmp_path, text_config=qwen), "published")
    with pytest.raises(MGMError, match=r"fusion is {'mode': 'pool'}; the published layout has"):
        plan_conversion(native(tmp_path, fusion={"mode": "pool"}), "published")


def test_names_without_a_published_form(tmp_path) -> None:
    convert(golden("work_dirs/MGM/MGM-7B"), tmp_path / "native", "native")
    file = tmp_path / "native/model.safetensors"
    save_file(load_file(file) | {"extra.one": torch.ones(2), "extra.two": torch.ones(2)}, file)
    with pytest.raises(MGMError, match=r"no names for extra.one, extra.two; only"):
        convert(tmp_path / "native", tmp_path / "back", "published")
    assert not (tmp_path / "back").exists()


def test_invalid_layouts_and_folders(tmp_path) -> None:
    source = golden("work_dirs/MGM/MGM-7B")
    with pytest.raises(MGMError, match="is in the published layout already; give the other --to"):
        convert(source, tmp_path / "x", "published")
    with pytest.raises(MGMError, match="exists already; name a new folder"):
        convert(source, tmp_path, "native")
    with pytest.raises(MGMError, match="exists already; name a new folder"):
        convert(source, tmp_path, "native", dry_run=True)
    with pytest.raises(MGMError, match="which is only read; name a folder elsewhere"):
        convert(source, source / "native", "native")


def test_tokens_beside_the_vocabulary_and_wrapped_images(tmp_path) -> None:
    source = tmp_path / "source"
    shutil.copytree(golden("work_dirs/MGM/MGM-7B"), source)
    (source / "added_tokens.json").write_text('{"<pad>": 760, "<more>": 761}')
    config = json.loads((source / "config.json").read_text()) | {"mm_use_im_start_end": True}
    (source / "config.json").write_text(json.dumps(config))
    convert(source, tmp_path / "native", "native")
    assert AutoProcessor.from_pretrained(tmp_path / "native").image_token_id == 762
    convert(tmp_path / "native", tmp_path / "back", "published")
    shutil.rmtree(tmp_path / "native/published")
    convert(tmp_path / "native", tmp_path / "anew", "published")
    for name in ("back", "anew"):
        processor = AutoProcessor.from_pretrained(tmp_path / name)
        assert processor.image_token_id == 762, name
        assert processor.wrap_images, name


def test_stage_1_with_its_base(tmp_path) -> None:
    """The result has the base's towers and tokenizer."""
    whole, source = golden("work_dirs/MGM/MGM-7B"), tmp_path / "stage1"
    source.mkdir()
    shutil.copy(whole / "config.json", source)
    parts = {name: v for name, v in weights_of(whole).items() if "mm_proj" in name or "vlm" in name}
    torch.save({name: value + 1 for name, value in parts.items()}, source / "mm_projector.bin")
    model = MGMForConditionalGeneration.from_pretrained(source, base=whole)
    again = AutoModelForImageTextToText.from_pretrained(source, base=whole)
    assert same_bits(again.state_dict(), model.state_dict())
    convert(source, tmp_path / "native", "native", base=str(whole))
    convert(tmp_path / "native", tmp_path / "published", "published")
    for name in ("native", "published"):
        engine = mgm.load(tmp_path / name)
        assert same_bits(engine.model.state_dict(), model.state_dict()), name
        assert engine.answer([mgm.Request("Hi", max_new_tokens=2)])


def test_edited_files_are_converted(tmp_path) -> None:
    convert(golden("work_dirs/MGM/MGM-7B"), tmp_path / "native", "native")
    native = tmp_path / "native"
    generation = GenerationConfig.from_pretrained(native)
    generation.eos_token_id = [2, 13]
    generation.save_pretrained(native)
    processor = AutoProcessor.from_pretrained(native)
    processor.tokenizer.add_tokens(["<more>"])
    processor.tokenizer.save_pretrained(native)
    convert(native, tmp_path / "back", "published")
    assert GenerationConfig.from_pretrained(tmp_path / "back").eos_token_id == [2, 13]
    assert "<more>" in AutoProcessor.from_pretrained(tmp_path / "back").tokenizer.get_vocab()
    assert not (tmp_path / "back/tokenizer.model").exists()
