"""From separate parts to a model that answers, in two stages through the command line."""

import json
import logging
import warnings
from importlib.util import find_spec

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    GenerationConfig,
)

import mgm
from mgm.errors import MGMError
from mgm.model.checkpoint.components import STAGE1_FILE
from mgm.model.loading import load_model
from mgm.train import checkpointing_trainer as trainer_module
from mgm.train.__main__ import run_training
from mgm.train.checkpointing.checkpoints import list_checkpoints
from tests.model.tiny import VISION
from tests.train.conftest import words

FROZEN = ("vision_tower.", "vision_tower_aux.")
FRESH = ("mining.", "projector.")


@pytest.fixture(scope="module")
def stage2(stage2_flags, tmp_path_factory):
    """The output folder of a stage-2 run, and its weights after the last step."""
    folder = tmp_path_factory.mktemp("stage2")
    return folder, run_training(words(stage2_flags | {"output_dir": folder})).model.state_dict()


def moved(before, after) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def start_of(flags):
    """The initial weights of a run."""
    from mgm.train.args.validation import parse_arguments
    from mgm.train.model_setup import build_model_and_processor

    return build_model_and_processor(parse_arguments(words(flags | {"output_dir": "unused"})))[
        0
    ].state_dict()


def test_stage_1_trains_mining_and_projector_only(stage1, stage1_flags) -> None:
    changed = moved(start_of(stage1_flags), load_model(stage1).state_dict())
    assert changed
    assert all(name.startswith(FRESH) for name in changed)
    weights = {name for name in load_file(stage1 / "model.safetensors") if "weight" in name}
    assert {name for name in weights if name.startswith(FRESH)} <= changed


def test_attention_flag(stage1_flags) -> None:
    from mgm.train.args.validation import parse_arguments
    from mgm.train.model_setup import build_model_and_processor

    flags = stage1_flags | {"attn_implementation": "eager", "output_dir": "unused"}
    model = build_model_and_processor(parse_arguments(words(flags)))[0]
    for part in (model, model.vision_tower, model.language_model):
        assert part.config._attn_implementation == "eager"


def test_stage_1_writes_the_published_file(stage1, stage1_flags, parts) -> None:
    published = torch.load(stage1 / STAGE1_FILE, weights_only=True)
    assert "model.mm_projector.2.weight" in published
    assert "model.vlm_uni_val_projector.1.bias" in published
    native = load_model(stage1).state_dict()
    for source in (stage1 / STAGE1_FILE, stage1):
        flags = stage1_flags | {"pretrain_mm_mlp_adapter": source}
        assert not moved(native, start_of(flags))


def test_stage_1_folder_without_the_published_file(stage2, stage1_flags) -> None:
    folder, weights = stage2
    start = start_of(stage1_flags | {"pretrain_mm_mlp_adapter": folder})
    assert all(name.startswith("language_model.") for name in moved(weights, start))


def test_stage_2_freezes_the_encoders(stage1, stage2) -> None:
    folder, weights = stage2
    changed = moved(load_model(stage1).state_dict(), weights)
    assert not any(name.startswith(FROZEN) for name in changed)
    for part in (*FRESH, "language_model."):
        of_part = [name for name in weights if name.startswith(part) and "weight" in name]
        assert set(of_part) <= changed | {"mining.key.norm.weight"}
    assert not moved(weights, load_model(folder).state_dict())


def test_output_folder_is_complete(stage2, data) -> None:
    folder = stage2[0]
    config = json.loads((folder / "config.json").read_text())
    assert (config["conversation"], config["image_aspect_ratio"]) == ("nano", "pad")
    assert config["image_size_aux"] == 128
    assert "use_cache" not in config
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    assert sorted(ends) == [2, 5]  # the stop tokens of tokenizer and template
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    assert processor.conversation == "nano"
    text = processor.prompt("Which colour?", images=1)
    inputs = processor(text=text, images=[Image.open(data.parent / "0.png")])
    answer = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert answer.shape[0] == 1
    engine = mgm.load(folder, device="cpu")
    request = mgm.Request("Which colour?", images=[data.parent / "0.png"], max_new_tokens=3)
    assert isinstance(engine.answer([request])[0].text, str)


def test_log_history(stage2) -> None:
    state = json.loads((stage2[0] / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(losses) == state["max_steps"] == 6
    assert losses[-1] < losses[0]


def test_killed_run_resumes(stage2_flags, stage2, tmp_path, monkeypatch, caplog) -> None:
    flags = words(stage2_flags | {"output_dir": tmp_path})
    whole = trainer_module.Trainer._save_optimizer_and_scheduler

    def killed(self, folder):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        whole(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.Trainer, "_save_optimizer_and_scheduler", killed)
        with pytest.raises(KeyboardInterrupt):
            run_training(flags)
    curves = {"curves.png"} if find_spec("matplotlib") else set()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-2"} | curves
    left = tmp_path / ".checkpoint-4.0123abcd.part"  # as after SIGKILL
    left.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = run_training(flags)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not left.exists()
    assert resumed.state.global_step == 6
    assert [folder.name for folder in list_checkpoints(tmp_path)] == [
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-6",
    ]
    for name, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, stage2[1][name], rtol=1e-5, atol=1e-7)


def test_finished_run_takes_no_further_step(stage2_flags, tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO, logger="mgm")
    flags = stage2_flags | {"max_steps": 4, "output_dir": tmp_path}
    before = run_training(words(flags)).model.state_dict()
    again = run_training(words(flags))
    assert again.state.global_step == 4
    assert not moved(before, load_model(tmp_path).state_dict())
    assert "all 4 steps are done" in caplog.text
    assert run_training(words(flags | {"max_steps": 5})).state.global_step == 5


def test_save_total_limit(stage2_flags, tmp_path) -> None:
    run_training(words(stage2_flags | {"output_dir": tmp_path, "save_total_limit": 1}))
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["checkpoint-6"]
    model = load_model(tmp_path / "checkpoint-6")
    assert model.config.conversation == "nano"


def test_without_mining(stage1_flags, stage2_flags, tmp_path) -> None:
    off = {"vision_tower_aux": "none"}
    run_training(words(stage1_flags | off | {"output_dir": tmp_path / "1"}))
    run_training(
        words(stage2_flags | {"model_name_or_path": tmp_path / "1", "output_dir": tmp_path / "2"})
    )
    model = load_model(tmp_path / "2")
    assert model.mining is None
    assert model.vision_tower_aux is None
    config = json.loads((tmp_path / "2" / "config.json").read_text())
    assert config.get("vision_aux_config") is None
    assert model.config.image_size_aux == 128


def test_replaced_encoders(stage1, stage2_flags, parts, tmp_path) -> None:
    kept = load_model(stage1).state_dict()
    towers = {"vision_tower": parts["clip"], "vision_tower_aux": parts["convnext"]}
    assert not moved(kept, start_of(stage2_flags | towers))  # they describe the result
    without = start_of(stage2_flags | {"vision_tower_aux": "none"})
    gone = {name for name in kept if name.startswith(("vision_tower_aux.", "mining."))}
    assert without.keys() == kept.keys() - gone
    CLIPVisionModel(CLIPVisionConfig(**VISION | {"hidden_size": 8})).save_pretrained(tmp_path)
    with pytest.raises(MGMError, match=f"{tmp_path}: .* has shape"):
        start_of(stage2_flags | {"vision_tower": tmp_path})


def test_hd_from_a_standard_model(stage2_flags, tmp_path) -> None:
    hd = {"image_grid": 2, "image_global": True, "image_size_aux": 256, "model_max_length": 200}
    more = {"output_dir": tmp_path, "max_steps": 1, "save_strategy": "no"}
    model = run_training(words(stage2_flags | hd | more)).model
    assert model.config.image_tokens_per_image == 5 * 16
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert processor.image_tokens_per_image == 5 * 16


def test_batch_without_labels(stage2_flags, tmp_path) -> None:
    # So short that every answer is truncated.
    more = {"model_max_length": 17, "max_steps": 2, "save_strategy": "no", "output_dir": tmp_path}
    flags = stage2_flags | more | {"weight_decay": 0.0}
    assert not moved(start_of(flags), run_training(words(flags)).model.state_dict())


def test_published_flags_in_bf16_with_gradient_checkpointing(
    stage1_flags, stage1, data, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("mgm.train.args.arguments.cpu_has_bfloat16", lambda: True)
    flags = stage1_flags | {
        "tune_mm_mlp_adapter": None,
        "pretrain_mm_mlp_adapter": stage1 / STAGE1_FILE,
        "version": "v1",
        "model_max_length": 400,
        "data_path": data,
        "image_folder": data.parent,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "pad",
        "group_by_modality_length": True,
        "bf16": True,
        "max_steps": 2,
        "per_device_eval_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "evaluation_strategy": "no",
        "save_total_limit": 1,
        "weight_decay": "0.",
        "warmup_ratio": 0.03,
        "lr_scheduler_type": "cosine",
        "gradient_checkpointing": True,
        "dataloader_num_workers": 1,
        "lazy_preprocess": True,
        "report_to": "none",
        "optimize_vision_tower": True,
        "optimize_vision_tower_aux": True,
        "drop_path": True,
        "output_dir": tmp_path,
    }
    trainer = run_training(words(flags))
    assert trainer.args.bf16
    model = trainer.model
    changed = moved(start_of(flags), model.state_dict())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert any(name.startswith("vision_tower.encoder.layers.1.") for name in changed)
    assert not any(name.startswith("vision_tower.encoder.layers.0.") for name in changed)
    assert "vision_tower_aux.stages.3.blocks.0.conv_dw.weight" in changed
    assert "vision_tower_aux.stem.0.weight" not in changed
    assert model.vision_tower_aux.training
    assert model.vision_tower_aux.stages[3].blocks[-1].drop_path.drop_prob == pytest.approx(0.1)


def test_stage_1_skips_samples_without_image(stage1_flags, data, tmp_path, caplog) -> None:
    with caplog.at_level("WARNING"):
        trainer = run_training(
            words(stage1_flags | {"data_path": data, "output_dir": tmp_path / "out"})
        )
    assert "3 of 12 samples have no image and train nothing" in caplog.text
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 6
    assert (tmp_path / "out" / "mm_projector.bin").is_file()


def test_text_only_data_with_a_short_limit(stage2_flags, data, tmp_path) -> None:
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(json.loads(data.read_text())[-3:]))
    flags = {"data_path": path, "output_dir": tmp_path / "out", "model_max_length": 16}
    trainer = run_training(words(stage2_flags | flags))
    assert trainer.state.global_step == 2
