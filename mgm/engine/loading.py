"""Loads an engine from a checkpoint folder, or from the hub."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from mgm.data.processing_mgm import MGMProcessor
from mgm.data.text.stop_criteria import sync_generation_config
from mgm.engine.device import choose_device, choose_dtype
from mgm.engine.engine import Engine
from mgm.engine.scheduler.config import SchedulerConfig
from mgm.engine.scheduler.ngram_drafter import check_num_speculative_tokens
from mgm.errors import MGMError, prefix_errors
from mgm.model.checkpoint.checkpoint import check_checkpoint
from mgm.model.files.hub import checkpoint_folder
from mgm.model.loading import load_model
from mgm.model.ops.attention import set_attention
from mgm.model.vision.fusion.fusion_config import FusionConfig


def load(
    path: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
    base: str | os.PathLike[str] | None = None,
    merge_lora: bool = True,
    text_only: bool = False,
    compile_vision: bool = False,
    compile_decode: bool = False,
    num_speculative_tokens: int = 0,
    attention: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    fusion: FusionConfig | Mapping[str, Any] | None = None,
    scheduler_config: SchedulerConfig | None = None,
) -> Engine:
    """Load a model, in the native or in a published layout, with its processor.

    Args:
        path: the folder, or a name on the Hugging Face hub.
        device: "cuda", "cuda:1", "mps" or "cpu"; None: the first of them that is available.
        dtype: "float32", "bfloat16" or "float16"; None: float32 on a CPU, otherwise bfloat16 or,
            where that is emulated, float16.
        quantize: weights of the language model: "int8" (8-bit weights), "llm-int8" (bitsandbytes,
            8 bits), "int4" (bitsandbytes, nf4); None: not quantized. Vision encoders, mining and
            projector stay in `dtype`.
        base: the language model that stage-1 weights or a LoRA belong to; None: the one that the
            folder refers to.
        merge_lora: whether a LoRA is merged into the weights.
        text_only: whether vision encoders, mining and projector are left out, for text-only use.
        compile_vision: whether these are compiled, which takes minutes at the first images: for
            very many images on a GPU.
        compile_decode: whether the decode step is compiled, on a GPU with CUDA graphs; loading
            takes a minute longer.
        num_speculative_tokens: maximum length of n-gram drafts, which one decode step verifies:
            fewer steps, the same answers; 0: no speculative decoding.
        attention: "sdpa", "flash_attention_2" (package flash-attn, on a GPU), "flex_attention" or
            "eager"; None: that of its config.json, or sdpa.
        revision: branch, tag or commit on the hub.
        token: access token for a private repository of the hub; None: that of the login.
        fusion: how both encoders' outputs become image tokens, for ablations, or a dictionary of
            the fields; None: as the model's config.json says.
        scheduler_config: batch sizes, prefill policy and cache memory; None: the defaults.

    Raises:
        MGMError: the folder holds no model of ours, the device or dtype is not available,
            `num_speculative_tokens` is negative, or the model does not support `fusion`.
    """
    if not os.fspath(path):
        raise MGMError("the model's path is empty; give the folder of a model")
    check_num_speculative_tokens(num_speculative_tokens)
    torch_device = choose_device(device)
    torch_dtype = choose_dtype(dtype, torch_device)
    own_fusion = None if fusion is None else FusionConfig.from_json(fusion)
    folder = checkpoint_folder(path, revision=revision, token=token)
    with prefix_errors(folder):
        check_checkpoint(folder)  # before the processor, which would report a missing tokenizer
        processor = MGMProcessor.from_pretrained(folder, base=base)
        model = load_model(folder, torch_dtype, torch_device, quantize, base, merge_lora, text_only)
        vocab_size = model.config.text_config.vocab_size
        if own_fusion is not None:
            model.fusion = own_fusion
        if attention is not None:
            set_attention(model, attention)
        if compile_vision and not text_only:
            model.compile_vision()
        sync_generation_config(
            model.generation_config, processor.tokenizer, processor.template, vocab_size
        )
        engine = Engine(model, processor, num_speculative_tokens, scheduler_config)
        if compile_decode:
            engine.compile_decode()
        return engine
