"""Encoders and language models that Mini-Gemini was not published with, from folder to answer."""

import json
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    Phi3Config,
    PhiConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipVisionModel,
)

import mgm
from mgm.errors import MGMError
from mgm.train.__main__ import run_training
from mgm.train.args.validation import parse_arguments
from mgm.train.model_setup import build_model_and_processor
from tests.model.inputs import difference
from tests.model.tiny import VISION
from tests.train.conftest import words

QUESTION = "<image>\nWhich colour?"
IMAGE = Image.new("RGB", (30, 24), "orange")
TOWERS = ("vision_tower", "vision_tower_aux")
SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
VIT = VISION | {"image_size": 32, "patch_size": 8}
# More embeddings than tokens, as in released models.
QWEN3 = Qwen3Config(**SIZES, **HEADS, head_dim=12, vocab_size=320, tie_word_embeddings=True)
PHI = PhiConfig(**SIZES, num_attention_heads=2, partial_rotary_factor=0.5, vocab_size=320)
PHI3 = Phi3Config(**SIZES, **HEADS, vocab_size=320, pad_token_id=0)
OLMO = {"model_type": "olmo2", "vocab_size": 320, "pad_token_id": 0}
QWEN3_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PHI3_TOKENS = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]


def language_folder(folder: Path, config: PretrainedConfig, special: list[str]) -> Path:
    """A random language model with a byte tokenizer without a BOS token."""
    torch.manual_seed(0)
    tokens = ByteLevelBPETokenizer()
    tokens.train_from_iterator([], vocab_size=256 + len(special), special_tokens=special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens._tokenizer, pad_token=special[0], eos_token=special[-1]
    )
    tokenizer.save_pretrained(folder)
    config.bos_token_id, config.eos_token_id = None, tokenizer.eos_token_id
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # no padding token id is sampled
        model.get_output_embeddings().weight[len(tokenizer) :] = 0
    model.save_pretrained(folder)
    return folder


def siglip_folder(folder: Path) -> Path:
    """A whole SigLIP, as the fixed-resolution SigLIP 2: text model, head, image processor."""
    torch.manual_seed(0)
    text = {"vocab_size": 16, **SIZES, "num_attention_heads": 2, "max_position_embeddings": 8}
    SiglipModel(SiglipConfig(vision_config=VIT, text_config=text)).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def timm_folder(folder: Path, architecture: str = "convnextv2_atto") -> Path:
    torch.manual_seed(0)
    network = timm.create_model(architecture, depths=(1, 2, 1, 1), dims=(4, 8, 12, 16))
    with torch.no_grad():
        for parameter in network.parameters():  # at initialisation GRN is the identity
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_for_hf(network, folder, safe_serialization=True)
    return folder


@pytest.fixture
def flags(parts, data, tmp_path) -> dict[str, object]:
    """Two training steps of language model, mining and projector."""
    return {
        "model_name_or_path": parts["language"],
        "vision_tower": parts["clip"],
        "vision_tower_aux": parts["convnext"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "image_size_aux": 128,
        "image_aspect_ratio": "pad",
        "model_max_length": 400,
        "data_path": data,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "max_steps": 2,
        "logging_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "output_dir": tmp_path / "out",
    }


def start_of(flags):
    model, processor = build_model_and_processor(parse_arguments(words(flags)))
    return model.eval(), processor


def trained_and_answering(flags):
    """Train, save, load and answer; compares with transformers' loading and `generate`."""
    before = {name: value.clone() for name, value in start_of(flags)[0].state_dict().items()}
    trainer = run_training(words(flags))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert all(0 < loss < 20 for loss in losses)
    folder = flags["output_dir"]
    engine = mgm.load(folder, device="cpu", dtype="float32")
    saved, after = engine.model.state_dict(), trainer.model.state_dict()
    assert saved.keys() == after.keys()
    assert all(torch.equal(saved[name], after[name]) for name in saved)
    changed = {name.split(".")[0] for name in saved if not torch.equal(saved[name], before[name])}
    towers = {name for name in TOWERS if flags.get(f"optimize_{name}")}
    assert changed == {"language_model", "mining", "projector"} | towers
    (answer,) = engine.answer([mgm.Request(QUESTION, images=[IMAGE], max_new_tokens=8)])
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(images=IMAGE, text=processor.prompt(QUESTION))
    generated = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0]
    written = generated[inputs["input_ids"].shape[1] :].tolist()
    assert answer.tokens
    assert [*answer.tokens] == written[: len(answer.tokens)]
    assert len(written) == len(answer.tokens) + (answer.finish_reason == "stop")
    return engine


def test_another_vision_transformer(flags, tmp_path) -> None:
    folder = siglip_folder(tmp_path / "vit")
    flags |= {"vision_tower": folder}
    model, processor = start_of(flags)
    theirs = SiglipVisionModel.from_pretrained(folder).eval()
    views = processor.image_processor([IMAGE, Image.new("RGB", (9, 40), "teal")])
    with torch.no_grad():
        tokens = model.low_resolution_tokens(views["pixel_values"])[:, 0]
        pixels = views["pixel_values"][:, 0]
        hidden = theirs(pixels, output_hidden_states=True).hidden_states[-2]
    assert difference(tokens, hidden) < 1e-6
    assert model.config.image_tokens_per_image == 16
    engine = trained_and_answering(flags)
    assert engine.processor.image_processor.image_mean == model.config.image_mean
    assert engine.model.config.vision_config.model_type == model.config.vision_config.model_type


def test_normalisation_of_siglip(flags, tmp_path) -> None:
    folder = siglip_folder(tmp_path / "vit")
    _, processor = start_of(flags | {"vision_tower": folder})
    # Already of the target size: neither processor resizes it.
    image = Image.effect_noise((32, 32), 80).convert("RGB")
    processor.image_processor.image_size_aux = 32
    views = processor.image_processor(image)
    theirs = SiglipImageProcessor.from_pretrained(folder)(image, return_tensors="pt")
    assert difference(views["pixel_values"][:, 0], theirs["pixel_values"]) < 1e-6
    clip = start_of(flags)[1].image_processor
    clip.image_size_aux = 32
    assert torch.equal(views["pixel_values_aux"], clip(image)["pixel_values_aux"])


@pytest.mark.parametrize("architecture", ["convnextv2_atto", "convnext_tiny", "test_convnext2"])
def test_another_convnext(flags, tmp_path, architecture: str) -> None:
    folder = timm_folder(tmp_path / "timm", architecture)
    flags |= {"vision_tower_aux": folder}
    model, processor = start_of(flags)
    shape = {"depths": (1, 2, 1, 1), "dims": (4, 8, 12, 16)}
    theirs = timm.create_model(architecture, features_only=True, **shape).eval()
    weights = timm.models.load_state_dict(str(folder / "model.safetensors"))
    names = theirs.state_dict().keys()
    theirs.load_state_dict({name: weights[name.replace("_", ".", 1)] for name in names})
    images = processor.image_processor
    mean = json.loads((folder / "config.json").read_text())["pretrained_cfg"]["mean"]
    assert images.image_mean_aux == mean
    assert images.image_mean != mean
    view = images(IMAGE)["pixel_values_aux"]
    with torch.no_grad():
        for ours, expected in zip(model.high_resolution_stages(view), theirs(view), strict=True):
            assert difference(ours, expected) < 1e-6
    if architecture == "convnextv2_atto":
        engine = trained_and_answering(flags)
        assert engine.processor.image_processor.image_mean_aux == mean
        aux = engine.model.config.vision_aux_config
        assert (aux.use_grn, aux.ls_init_value, aux.conv_mlp) == (True, None, True)


def test_replaced_convnext_with_its_normalisation(stage2_flags, tmp_path) -> None:
    network = timm.create_model("convnext_tiny", depths=(1, 1, 1, 1), dims=(4, 8, 12, 16))
    save_for_hf(network, tmp_path, safe_serialization=True)
    flags = stage2_flags | {"output_dir": "unused"}
    assert start_of(flags)[1].image_processor.image_mean_aux[0] == 0.48145466
    model, processor = start_of(flags | {"vision_tower_aux": tmp_path})
    assert torch.equal(model.vision_tower_aux.stem[0].weight, network.stem[0].weight)
    assert processor.image_processor.image_mean_aux == model.config.image_mean_aux
    assert model.config.image_mean_aux == [0.485, 0.456, 0.406]
    assert processor.image_processor.image_mean[0] == 0.48145466


@pytest.mark.parametrize(
    ("config", "special", "conversation"),
    [
        (QWEN3, QWEN3_TOKENS, "qwen_3"),
        (PHI3, PHI3_TOKENS, "phi_3"),
        (PHI, ["<|pad|>", "<|endoftext|>"], "phi"),
    ],
    ids=["qwen3", "phi3", "phi"],
)
def test_another_language_model(flags, tmp_path, config, special, conversation) -> None:
    folder = language_folder(tmp_path / "language", config, special)
    flags |= {"model_name_or_path": folder}
    model, processor = start_of(flags)
    assert processor.conversation == conversation
    inputs = processor(text=["some text", "more"])
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        ours, expected = model(**inputs).logits, theirs(**inputs).logits
    assert torch.equal(ours, expected)
    engine = trained_and_answering(flags)
    stop = processor.tokenizer.convert_tokens_to_ids(processor.template.stop)
    saved = json.loads((flags["output_dir"] / "generation_config.json").read_text())
    assert stop in saved["eos_token_id"]
    head, embedding = engine.model.get_output_embeddings(), engine.model.get_input_embeddings()
    assert (head.weight is embedding.weight) == config.tie_word_embeddings


def test_unknown_language_model_logs_its_template(flags, tmp_path, caplog) -> None:
    config = AutoConfig.for_model(**OLMO, **SIZES, **HEADS)
    folder = language_folder(tmp_path / "language", config, ["<|pad|>", "<|endoftext|>"])
    flags |= {"model_name_or_path": folder}
    assert start_of(flags)[1].conversation == "vicuna_v1"
    assert "family olmo2; using the conversation template vicuna_v1" in caplog.text
    caplog.clear()
    assert start_of(flags | {"version": "phi_2"})[1].conversation == "phi_2"
    assert not caplog.text
    language_folder(folder, config, QWEN3_TOKENS)
    assert start_of(flags)[1].conversation == "qwen_3"
    assert not caplog.text


def test_all_parts_at_once(flags, tmp_path) -> None:
    flags |= {
        "model_name_or_path": language_folder(tmp_path / "language", QWEN3, QWEN3_TOKENS),
        "vision_tower": siglip_folder(tmp_path / "vit"),
        "vision_tower_aux": timm_folder(tmp_path / "timm"),
        "image_grid": 2,
        "image_global": True,
        "optimize_vision_tower": True,
        "optimize_vision_tower_aux": True,
        "drop_path": True,
        "gradient_checkpointing": True,
    }
    assert trained_and_answering(flags).model.config.image_tokens_per_image == 5 * 16


def test_size_that_does_not_fit(flags, tmp_path) -> None:
    flags |= {"vision_tower": siglip_folder(tmp_path / "vit"), "image_size_aux": 100}
    with pytest.raises(MGMError, match=r"image_size_aux is 100; .* the nearest 96 or 112,"):
        start_of(flags)
