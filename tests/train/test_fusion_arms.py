"""Every arm through the command line: both stages, a LoRA, served answers, refused changes."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import mgm
from mgm.errors import MGMError
from mgm.model.checkpoint.conversion import plan_conversion
from mgm.model.loading import load_model
from mgm.model.vision.fusion.fusion_config import FusionConfig
from mgm.train.__main__ import run_training
from mgm.train.args.validation import parse_arguments
from mgm.train.model_setup import build_model_and_processor
from tests.model.fusion_arms import ARMS
from tests.train.conftest import words

QUESTION = "<image>\nWhich colour?"
IMAGE = Image.new("RGB", (30, 24), "orange")
# The default tier has a new module of each kind; mining's own stages are tested elsewhere.
QUICK = ("one query", "concatenation", "low resolution alone", "pooled tokens")
EACH = [pytest.param(arm, marks=() if arm in QUICK else pytest.mark.slow) for arm in ARMS]
SHORT: dict[str, object] = {"max_steps": 2, "save_strategy": "no"}


def flag_of(arm: str) -> str | None:
    """The value of --fusion, a mode where that says all; None: left out."""
    fields = ARMS[arm]
    if fields.keys() <= {"mode"}:
        return fields.get("mode")
    return json.dumps(fields)


def trained(flags: dict[str, object], folder: Path, **more: object):
    trainer = run_training(words(flags | SHORT | {"output_dir": folder} | more))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert all(0 < loss < 20 for loss in losses)
    return trainer.model


def check_answers(folder: Path, tokens: int) -> None:
    """The engine's prefill and answer are those of transformers' forward pass and `generate`."""
    engine = mgm.load(folder, device="cpu", dtype="float32")
    assert engine.processor.image_tokens_per_image == tokens
    request = mgm.Request(QUESTION, images=[IMAGE], max_new_tokens=6, logprobs=1)
    (answer,) = engine.answer([request])
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(images=IMAGE, text=processor.prompt(QUESTION))
    assert inputs["input_ids"].eq(model.config.image_token_id).sum() == tokens
    assert answer.prompt_tokens == inputs["input_ids"].shape[1]
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1]
    first = answer.sampled_tokens[0]
    assert first.logprob == pytest.approx(logits.log_softmax(-1).max().item(), abs=1e-4)
    written = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0]
    written = written[inputs["input_ids"].shape[1] :].tolist()
    assert answer.tokens
    assert [*answer.tokens] == written[: len(answer.tokens)]


@pytest.mark.parametrize("arm", EACH)
def test_trained_in_both_stages_and_served(arm: str, stage1_flags, stage2_flags, tmp_path) -> None:
    fused = {"fusion": flag_of(arm)}
    first, second = tmp_path / "stage1", tmp_path / "stage2"
    after_first = trained(stage1_flags | fused, first).state_dict()
    start = {"model_name_or_path": first}  # the fusion is the folder's
    model = trained(stage2_flags | start, second)
    assert model.config.fusion == load_model(first).config.fusion
    assert model.config.fusion == FusionConfig(**ARMS[arm])
    loaded = load_model(second)
    after = loaded.state_dict()
    assert after.keys() == after_first.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(after[name], value), name
    changed = {n for n in after if not torch.equal(after[n], after_first[n])}
    parts = {"language_model", "projector"} | ({"mining"} if loaded.mining is not None else set())
    assert {name.split(".")[0] for name in changed} == parts
    pooling = ARMS[arm].get("token_pooling", 1)
    check_answers(second, (4 // pooling) ** 2)
    if ARMS[arm]:
        with pytest.raises(MGMError, match="patch info mining only"):
            plan_conversion(second, "published")


@pytest.mark.parametrize("arm", ["concatenation", "one query"])
def test_stage_2_from_the_language_model_and_the_file_of_stage_1(
    arm: str, stage1_flags, stage2_flags, tmp_path
) -> None:
    fused = {"fusion": flag_of(arm)}
    left = trained(stage1_flags | fused, tmp_path / "1").state_dict()
    file = tmp_path / "1" / "mm_projector.bin"
    assert all(name.startswith("model.") for name in torch.load(file, weights_only=True))
    flags = stage1_flags | fused | {"pretrain_mm_mlp_adapter": file, "output_dir": "unused"}
    model, processor = build_model_and_processor(parse_arguments(words(flags)))
    for name, value in model.state_dict().items():
        assert torch.equal(value, left[name]), name
    assert processor.image_tokens_per_image == model.config.image_tokens_per_image
    with pytest.raises(MGMError, match=r"mm_projector\.bin"):
        build_model_and_processor(parse_arguments(words(flags | {"fusion": "gate"})))
    lora = {
        "tune_mm_mlp_adapter": None,
        "version": "nano",
        "data_path": stage2_flags["data_path"],
        "lora_enable": True,
        "lora_r": 4,
    }
    adapter = trained(flags | lora, tmp_path / "adapter").eval()
    merged = load_model(tmp_path / "adapter").eval()
    assert merged.config.fusion == adapter.config.fusion
    fresh = {n: v for n, v in adapter.state_dict().items() if n.startswith("mining.")}
    assert all(torch.equal(merged.state_dict()[name], value) for name, value in fresh.items())
    assert any(not torch.equal(left[name], value) for name, value in fresh.items())


def test_a_trained_model_keeps_its_weights_and_may_change_its_inputs(
    stage1, stage2_flags, tmp_path
) -> None:
    def start(fusion: str):
        flags = stage2_flags | {"fusion": fusion, "output_dir": tmp_path}
        return build_model_and_processor(parse_arguments(words(flags)))

    model, processor = start('{"token_pooling": 2, "blur_high_resolution": 28}')
    assert model.config.image_tokens_per_image == processor.image_tokens_per_image == 4
    processor.save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).image_tokens_per_image == 4
    for fusion in ("concat", '{"stages": [4]}', "none"):
        with pytest.raises(MGMError, match=r"--fusion: (mode|stages) is .* was made with"):
            start(fusion)


def test_a_vit_that_is_not_used_is_not_trained(stage1_flags, tmp_path) -> None:
    flags = {"fusion": flag_of("high resolution alone"), "optimize_vision_tower": True}
    with pytest.raises(MGMError, match="--optimize_vision_tower: with this --fusion"):
        trained(stage1_flags | flags, tmp_path)


def test_blocks_beyond_the_stages_that_are_used_are_not_trained(stage1_flags, tmp_path) -> None:
    flags = {"fusion": '{"stages": [1, 3]}', "optimize_vision_tower_aux": True}
    model = trained(stage1_flags | flags, tmp_path)
    stages = model.vision_tower_aux.stages
    learned = [any(p.requires_grad for p in stage.parameters()) for stage in stages]
    assert learned == [True, True, True, False]
