import json
from pathlib import Path

import pytest
from PIL import Image

from tests.tiny_model import build


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """The folder of a tiny random model."""
    return build(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def image_files(tmp_path):
    """Two image files."""
    files = [tmp_path / f"{name}.png" for name in ("red", "blue")]
    for file in files:
        Image.new("RGB", (40, 30), file.stem).save(file)
    return files


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory) -> Path:
    """A tiny SDXL of random weights."""
    diffusers = pytest.importorskip("diffusers")
    import torch
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sdxl")
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
    )
    text = CLIPTextConfig(
        hidden_size=32, intermediate_size=37, num_attention_heads=4, num_hidden_layers=2,
        vocab_size=len(words), projection_dim=32, bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1, pad_token_id=len(words) - 1,
    )  # fmt: skip
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=2, sample_size=32, in_channels=4,
        out_channels=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 4),
        use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=80, cross_attention_dim=64,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=[32, 64], in_channels=3, out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4, sample_size=64,
    )  # fmt: skip
    made = diffusers.StableDiffusionXLPipeline(
        vae, CLIPTextModel(text), CLIPTextModelWithProjection(text), tokenizer, tokenizer, unet,
        diffusers.EulerDiscreteScheduler(),
    )  # fmt: skip
    made.save_pretrained(folder / "pipeline")
    return folder / "pipeline"
