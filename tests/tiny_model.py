"""A tiny model with random weights, saved to a folder."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from mgm.data.image_processing_mgm import MGMImageProcessor
from mgm.data.processing_mgm import MGMProcessor
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.loading import save_model
from mgm.model.modeling_mgm import MGMForConditionalGeneration

SPECIAL = ["<pad>", "<s>", "<|user|>", "<|assistant|>", "<|end|>"]


def byte_tokenizer():
    """A tokenizer with a token per byte, so that non-ASCII characters have several tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE({token: i for i, token in enumerate([*SPECIAL, *letters])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def build(folder: Path, positions: int = 512, endless: bool = False, **text: Any) -> Path:
    """Save a model of the nano family with 4 tokens per image to `folder`.

    An endless one rarely samples the stop token; `text` overrides fields of the language model.
    """
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = MGMConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": positions,
            "initializer_range": 0.6,
            "bos_token_id": 1,
            "eos_token_id": 4,
        }
        | text,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        vision_aux_config={"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]},
        image_size_aux=64,
        conversation="nano",
    )
    model = MGMForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.projector.parameters():
            parameter.mul_(20)  # so that different images lead to different answers
        if endless:
            model.get_output_embeddings().weight[tokenizer.eos_token_id] = 0
    save_model(model, folder)
    MGMProcessor(MGMImageProcessor(28, 64), tokenizer, "nano").save_pretrained(folder)
    return folder
