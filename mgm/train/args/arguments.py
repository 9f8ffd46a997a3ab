"""The published training flags, as dataclasses that transformers' parser reads."""

import logging
import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
import transformers

from mgm.data.images.orientation import STORED
from mgm.data.sources.bad_samples import BAD_SAMPLES_FILE, RAISE
from mgm.engine.device import cpu_has_bfloat16
from mgm.errors import MGMError
from mgm.model.vision.fusion.modules import FUSION_MODES
from mgm.train.distributed.deepspeed_settings import (
    check_deepspeed_config,
    read_deepspeed_config,
    settings_label,
)
from mgm.train.distributed.deepspeed_start import disable_shm_comm, set_single_process_env
from mgm.train.distributed.fsdp import parse_fsdp

logger = logging.getLogger(__name__)

NO_QUANTIZATION = 16  # bits
BIT_WIDTHS = (4, 8, NO_QUANTIZATION)
QUANT_TYPES = ("nf4", "fp4")  # 4-bit data types

# A boolean flag whose value is optional, and that is None if it is left out.
_SWITCH = {"nargs": "?", "const": True}


def _flag(default: Any, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": text, **more})


@dataclass
class ModelArguments:
    """Initial weights, and which parts are trained."""

    _argument_group_name = "model"

    model_name_or_path: str = _flag(
        "",
        "Folder of a language model (with encoders of --vision_tower and --vision_tower_aux, and "
        "new mining and projector), or of a Mini-Gemini, native or published.",
    )
    version: str | None = _flag(
        None,
        "Conversation template: plain, v1, gemma, llama_3, chatml_direct, mistral_instruct, nano, "
        "... Default: the Mini-Gemini folder's, or that of the language model's family.",
    )
    vision_tower: str | None = _flag(None, "Folder of the low-resolution encoder: CLIP or SigLIP.")
    vision_tower_aux: str | None = _flag(
        None,
        "Folder of the high-resolution encoder, a ConvNeXt of OpenCLIP or timm. Default, and "
        "'none': a model without it and without mining.",
    )
    fusion: str | None = _flag(
        None,
        f"How encoders' outputs are combined: {', '.join(FUSION_MODES)}, or an object as in "
        "config.json (docs/fusion.md). Default: mining, or the folder's.",
    )
    pretrain_mm_mlp_adapter: str | None = _flag(None, "Stage 1's folder or mm_projector.bin.")
    tune_mm_mlp_adapter: bool = _flag(False, "Stage 1: train fusion (mining) and projector only.")
    freeze_mm_mlp_adapter: bool = _flag(False, "Freeze the projector.")
    freeze_backbone: bool = _flag(False, "Freeze the language model except its LM head.")
    optimize_vision_tower: bool = _flag(False, "Train the upper half of the ViT's layers.")
    optimize_vision_tower_aux: bool = _flag(
        False, "Train the last block of each of the ConvNeXt's stages."
    )
    drop_path: bool = _flag(
        False,
        "Stochastic depth of the ConvNeXt (rate 0.1). Published default: True, even if frozen.",
    )
    mm_projector_type: str | None = _flag(
        None, "linear, mlpNx_gelu (mlp2x_gelu) or identity. Default: linear."
    )
    mm_vision_select_layer: int | None = _flag(
        None, "CLIP layer whose output is used; published models: -2. Default: -1."
    )
    mm_vision_select_feature: str | None = _flag(
        None, "Output positions of CLIP that are used: patch. Default: patch, or the folder's."
    )
    mm_use_im_start_end: bool = _flag(False, "Not supported yet.")
    mm_use_im_patch_token: bool = _flag(False, "Rejected: adds a token that nothing uses.")
    image_processor: str | None = _flag(None, "Rejected: there is one image processor.")


@dataclass
class DataArguments:
    """Training and validation data, and image preprocessing."""

    _argument_group_name = "data"

    data_path: str = _flag(
        "",
        "JSON file (or .jsonl) of samples, see docs/data.md; a mixture of several; a parquet "
        "file or folder; a data set of the hub, owner/name; or, with --streaming, tars "
        "('shards/{000..099}.tar') and URLs.",
    )
    data_config: str | None = _flag(None, "Configuration of a data set of the hub.")
    data_split: str = _flag("train", "Split of a data set of the hub or of save_to_disk.")
    streaming: bool = _flag(
        False, "Stream the data shard by shard, from the disk or a network; needs --max_steps."
    )
    image_folder: str | None = _flag(
        None, "Folder that image paths are relative to. Default: that of --data_path."
    )
    eval_data_path: str | None = _flag(None, "Validation data, evaluated as --eval_strategy says.")
    eval_image_folder: str | None = _flag(
        None, "Folder that its image paths are relative to. Default: that of --eval_data_path."
    )
    eval_num_generations: int = _flag(
        0,
        "Validation samples for which the answer to the first question is generated and compared "
        "by exact match.",
    )
    eval_benchmarks: str | None = _flag(
        None,
        "Benchmarks of python -m mgm.eval, separated by commas, that every checkpoint is evaluated "
        "on; scores are logged. Other processes wait, so --ddp_timeout has to be longer.",
    )
    eval_benchmark_dir: str = _flag("data/MGM-Eval", "Folder of the benchmarks' files.")
    eval_benchmark_limit: int = _flag(0, "Maximum questions per benchmark; 0: all.")
    on_bad_sample: str = _flag(
        RAISE,
        "raise: a bad sample ends the run; skip: it is skipped, also in --eval_data_path, and "
        f"listed in {BAD_SAMPLES_FILE} of the output folder.",
    )
    image_orientation: str = _flag(
        STORED,
        "stored: pixels as in the file, as released models were trained; upright: rotated by EXIF "
        "orientation, as chat and servers do.",
    )
    image_aspect_ratio: str | None = _flag(
        None, "pad (to a square) or square (center crop). Default: square, or the folder's."
    )
    image_size_aux: int | None = _flag(
        None, "High-resolution pixels per side. Default: 320, or the folder's."
    )
    image_grid: int | None = _flag(
        None, "Crops per side for CLIP; HD: 2. Default: 1, or the folder's."
    )
    image_global: bool | None = _flag(
        None,
        "Whether CLIP also gets the whole image (HD). Default: no, or the folder's.",
        **_SWITCH,
    )
    lazy_preprocess: bool = _flag(
        True, "Samples are preprocessed when they are loaded; always true."
    )
    is_multimodal: bool = _flag(True, "Has no effect; always true.")
    image_grid_pinpoints: str | None = _flag(None, "Rejected: published, but never used.")


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """transformers' training arguments, and the published ones of Mini-Gemini."""

    _argument_group_name = "training"

    output_dir: str | None = _flag("", "Folder for checkpoints and the trained model.")
    model_max_length: int | None = _flag(
        None, "Maximum sequence length, image tokens included. Default: 512, or the folder's."
    )
    # None first: HfArgumentParser depends on the order.
    report_to: None | str | list[str] = _flag(  # noqa: RUF009, RUF036
        None,
        "Experiment tracker: tensorboard, wandb, another of transformers, or none. Default: "
        "tensorboard, if it is installed.",
    )
    attn_implementation: str | None = _flag(
        None,
        "Attention: sdpa, flash_attention_2 (package flash-attn, on a GPU), flex_attention or "
        "eager. Default: sdpa.",
    )
    group_by_modality_length: bool = _flag(
        False, "Batches of similar lengths, either all with images or all without."
    )
    group_by_length: bool = _flag(
        False, "Batches of nearly equal lengths, image tokens included, with and without images."
    )
    packing: bool = _flag(
        False,
        "Sequence packing: several samples per row of --model_max_length, each attending to itself "
        "only; the batch size counts rows.",
    )
    mm_projector_lr: float | None = _flag(None, "Learning rate of the projector.")
    lr_multi: str | None = _flag(
        None,
        "Learning rate multipliers by part of the published parameter name, such as "
        "'model.mm_projector:2,model.vlm_uni:2'.",
    )
    warmup_ratio: float = _flag(0.0, "Fraction of all steps, below 1, for learning rate warm-up.")
    evaluation_strategy: str | None = _flag(None, "Old name of --eval_strategy.")
    optim: str = _flag("adamw_torch", "Optimizer; adamw_torch_fused is faster.")
    remove_unused_columns: bool = _flag(False, "Rejected: samples have exactly the model's inputs.")
    logging_steps: float = _flag(10, "Steps between two logs of the loss.")
    cache_dir: str | None = _flag(None, "Rejected: set the environment variable HF_HOME.")
    mpt_attn_impl: str = _flag("triton", "Rejected: MPT is not a language model of Mini-Gemini.")
    bits: int = _flag(
        NO_QUANTIZATION, "QLoRA: bits of the frozen language model, 4 or 8; 16: not quantised."
    )
    double_quant: bool = _flag(True, "4 bits: quantise the quantisation constants too.")
    quant_type: str = _flag("nf4", "4-bit data type: nf4 or fp4.")
    lora_enable: bool = _flag(False, "Train a LoRA of the frozen language model.")
    lora_r: int = _flag(64, "Rank of the LoRA.")
    lora_alpha: int = _flag(16, "LoRA alpha: outputs are scaled by alpha / rank.")
    lora_dropout: float = _flag(0.05, "Dropout of the LoRA's inputs.")
    lora_weight_path: str = _flag("", "Folder of an adapter to continue training.")
    lora_bias: str = _flag("none", "Biases to train too: none, all or lora_only.")
    fsdp: str | None = _flag(
        None,
        "full_shard: FSDP2, which shards parameters, gradients and optimizer states. Default: DDP, "
        "or --deepspeed.",
        **_SWITCH,
    )
    selective_checkpointing: bool = _flag(
        False,
        "With --gradient_checkpointing: save outputs of matmuls and attention, and recompute "
        "elementwise operations only.",
    )
    use_dora: bool = _flag(False, "DoRA: also train the magnitude of each weight row.")

    def __post_init__(self) -> None:
        self.use_fsdp = parse_fsdp(self.fsdp)
        self.fsdp = None  # transformers' own silently runs as DDP on a CPU
        if self.use_fsdp and self.deepspeed:
            raise MGMError("--fsdp beside --deepspeed: both shard the model; choose one")
        self._translate_published_flags()
        label = settings_label(self.deepspeed or "")
        if self.deepspeed is not None and self.deepspeed != "":
            if find_spec("deepspeed") is None:
                raise MGMError("--deepspeed: not installed; pip install -e '.[train]'")
            self.deepspeed = read_deepspeed_config(self.deepspeed)
            set_single_process_env()
        self._adapt_to_device()
        settings = self.deepspeed
        super().__post_init__()
        if isinstance(settings, dict):
            check_deepspeed_config(settings, self, label)

    def _translate_published_flags(self) -> None:
        """Set the fields of transformers' arguments from published flags and our defaults."""
        if self.evaluation_strategy is not None:
            self.eval_strategy = self.evaluation_strategy
        if self.ddp_backend and "WORLD_SIZE" not in os.environ:
            logger.info("--ddp_backend %s: not needed by a single process", self.ddp_backend)
            self.ddp_backend = None
        if self.report_to is None:
            self.report_to = "tensorboard" if find_spec("tensorboard") else "none"
        if self.warmup_ratio and not self.warmup_steps:
            self.warmup_steps = self.warmup_ratio
        if self.gradient_checkpointing and hasattr(self, "activation_checkpointing"):
            # transformers 5.23 renamed it and warns about the published name. Its `__post_init__`
            # sets that again, so that it can be read in every version.
            self.activation_checkpointing = True
            self.gradient_checkpointing = None

    def _adapt_to_device(self) -> None:
        """Turn off, or reject, features that this machine's device does not support."""
        if not torch.accelerator.is_available():
            if self.deepspeed:
                disable_shm_comm()
            # Otherwise bf16 is rejected, and memory is pinned for a device that does not exist.
            self.use_cpu = True
        if self.bf16 and self.use_cpu and not cpu_has_bfloat16():
            # Emulated, a step of the nano model took 60 s and more, in float32 5 s.
            logger.warning("--bf16 True: this CPU has no instructions for it; using float32")
            self.bf16 = False
        if self.fp16 and self.use_cpu:
            raise MGMError("--fp16 True: not supported on a CPU; leave it out, or use --bf16 True")
        if self.tf32 and not torch.cuda.is_available():
            logger.info("--tf32 True: has no effect without a CUDA device")
            self.tf32 = None

    @property
    def order_seed(self) -> int:
        """Seed of data order and mixture sampling: `--data_seed`, or `--seed`."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def is_zero3(self) -> bool:
        """Whether DeepSpeed partitions the parameters too."""
        settings = getattr(self, "hf_deepspeed_config", None)  # there is none without --deepspeed
        return settings is not None and settings.is_zero3()

    @property
    def loads_on_rank0(self) -> bool:
        """Whether only rank 0 reads the weights, and other ranks receive their shards from it."""
        return self.use_fsdp or (self.is_zero3 and self.bits == NO_QUANTIZATION)

    @property
    def n_gpu(self) -> int:
        """At most one device per process: no `nn.DataParallel`, even if several are visible."""
        return min(super().n_gpu, 1)
