"""A model's folder, or its name on the hub, to an engine."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from mgm.data.processing_mgm import MGMProcessor
from mgm.data.text.stop_criteria import align_generation
from mgm.engine.device import choose_device, choose_dtype
from mgm.engine.engine import Engine
from mgm.engine.scheduler.ngram_drafter import check_num_speculative_tokens
from mgm.errors import MGMError, faults_of
from mgm.model.checkpoint.checkpoint import check_checkpoint
from mgm.model.files.hub import checkpoint_folder
from mgm.model.loading import load_model
from mgm.model.ops.attention import set_attention
from mgm.model.ops.onednn_linear import use_onednn
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
    compile_decoding: bool = False,
    num_speculative_tokens: int = 0,
    attention: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    fusion: FusionConfig | Mapping[str, Any] | None = None,
) -> Engine:
    """Load a model, in the native or in a published layout, ready to answer.

    Args:
        path: the folder, or a name on the Hugging Face hub.
        device: "cuda", "cuda:1", "mps" or "cpu"; None: the first of them that is there.
        dtype: "float32", "bfloat16" or "float16"; None: float32 on a CPU, else bfloat16 or, where
            that is slow, float16.
        quantize: the language model's weights in fewer bits: "int8" (8-bit weights), "llm-int8"
            (bitsandbytes, 8 bits), "int4" (bitsandbytes, nf4); None: as they are. Towers, mining
            and projector stay in `dtype`.
        base: the language model that stage-1 weights or a LoRA go on top of; None: the one that the
            folder names.
        merge_lora: whether a LoRA becomes part of the weights; else it stays beside them.
        text_only: whether all that sees images is left out, for questions without any.
        compile_vision: whether what sees images is compiled, which takes minutes at the first ones:
            for very many images on a GPU.
        compile_decoding: whether steps that write a token run compiled, on a GPU as CUDA graphs;
            the model loads a minute longer for it.
        num_speculative_tokens: maximum length of n-gram drafts, which one decode step verifies:
            fewer steps, the same answers; 0: no speculative decoding.
        attention: "sdpa", "flash_attention_2" (package flash-attn, on a GPU), "flex_attention" or
            "eager"; None: the model's own, sdpa unless its config.json names another.
        revision: branch, tag or commit on the hub.
        token: for a private repository of the hub; None: the one that was logged in with.
        fusion: how both encoders' outputs become image tokens, for ablations, or a dictionary of
            the fields; None: as the model's config.json says.

    Raises:
        MGMError: the folder holds no model of ours, the device or dtype is not there,
            `num_speculative_tokens` is negative, or the model cannot be run with `fusion`.
    """
    if not os.fspath(path):
        raise MGMError("the model's path is empty; give the folder of a model")
    check_num_speculative_tokens(num_speculative_tokens)
    place = choose_device(device)
    precision = choose_dtype(dtype, place)
    own_fusion = None if fusion is None else FusionConfig.from_json(fusion)
    folder = checkpoint_folder(path, revision=revision, token=token)
    with faults_of(folder):
        check_checkpoint(folder)  # what is wrong with a foreign folder is not its tokenizer
        processor = MGMProcessor.from_pretrained(folder, base=base)
        model = load_model(folder, precision, place, quantize, base, merge_lora, text_only)
        rows = model.config.text_config.vocab_size
        if own_fusion is not None:
            model.fusion = own_fusion
        if attention is not None:
            set_attention(model, attention)
        if compile_vision and not text_only:
            model.compile_vision()
        if place.type == "cpu":
            use_onednn(model)
        align_generation(model.generation_config, processor.tokenizer, processor.template, rows)
        engine = Engine(model, processor, num_speculative_tokens)
        if compile_decoding:
            engine.compile_decoding()
        return engine
