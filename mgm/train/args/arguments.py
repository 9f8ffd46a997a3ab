"""The published training flags, as dataclasses that transformers' parser reads."""

import logging
import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
import transformers

from mgm.data.images.orientation import STORED
from mgm.data.sources.bad_samples import FILE, RAISE
from mgm.engine.device import cpu_has_bfloat16
from mgm.errors import MGMError
from mgm.train.distributed.deepspeed_settings import check_settings, read_settings, settings_label
from mgm.train.distributed.deepspeed_start import disable_shm_comm, set_single_process_env
from mgm.train.distributed.fsdp import parse_fsdp

logger = logging.getLogger(__name__)

FULL = 16  # bits that mean: as it is
BITS = (4, 8, FULL)
QUANT_TYPES = ("nf4", "fp4")  # of 4 bits

# A flag that may be given without a value, and that tells "left out" from "False".
_SWITCH = {"nargs": "?", "const": True}


def _flag(default: Any, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": text, **more})


@dataclass
class ModelArguments:
    """What is trained, and from which weights it starts."""

    _argument_group_name = "model"

    model_name_or_path: str = _flag(
        "",
        "Folder of a language model (then --vision_tower and --vision_tower_aux bring the encoders "
        "and mining and projector are fresh), or of a Mini-Gemini, native or published.",
    )
    version: str | None = _flag(
        None,
        "Conversation template: plain, v1, gemma, llama_3, chatml_direct, mistral_instruct, nano, "
        "... Left out: the Mini-Gemini folder's, or the one that fits the tokenizer.",
    )
    vision_tower: str | None = _flag(
        None, "Folder of the CLIP or SigLIP, the low-resolution encoder."
    )
    vision_tower_aux: str | None = _flag(
        None,
        "Folder of the high-resolution encoder, a ConvNeXt of OpenCLIP or timm; left out or "
        "'none': a model without it and without mining.",
    )
    pretrain_mm_mlp_adapter: str | None = _flag(
        None, "What stage 1 left: its folder or its mm_projector.bin."
    )
    tune_mm_mlp_adapter: bool = _flag(False, "Stage 1: train mining and projector alone.")
    freeze_mm_mlp_adapter: bool = _flag(False, "Leave the projector as it is.")
    freeze_backbone: bool = _flag(False, "Leave the language model but for its head as it is.")
    optimize_vision_tower: bool = _flag(False, "Train the upper half of the ViT's layers.")
    optimize_vision_tower_aux: bool = _flag(
        False, "Train the last block of each of the ConvNeXt's stages."
    )
    drop_path: bool = _flag(
        False,
        "Drop paths of the ConvNeXt at random during training (rate 0.1). The published default is "
        "True, also for a frozen encoder.",
    )
    mm_projector_type: str | None = _flag(
        None, "linear, mlpNx_gelu (mlp2x_gelu) or identity. Left out: linear."
    )
    mm_vision_select_layer: int | None = _flag(
        None, "CLIP layer whose output is used; published models: -2. Left out: -1."
    )
    mm_vision_select_feature: str | None = _flag(
        None, "Which of CLIP's positions are used: patch. Left out: patch, or the folder's."
    )
    mm_use_im_start_end: bool = _flag(False, "Not supported yet.")
    mm_use_im_patch_token: bool = _flag(False, "Refused: adds a token that nothing uses.")
    image_processor: str | None = _flag(None, "Refused: images are prepared in one way.")


@dataclass
class DataArguments:
    """Samples and how their images are prepared."""

    _argument_group_name = "data"

    data_path: str = _flag(
        "",
        "JSON file (or .jsonl) of samples, see docs/data.md; a mixture of several; a parquet "
        "file or folder; a data set of the hub, owner/name; or, with --streaming, tars "
        "('shards/{000..099}.tar') and URLs.",
    )
    data_config: str | None = _flag(None, "Which part of a data set of the hub.")
    data_split: str = _flag("train", "Which split of a data set of the hub or of save_to_disk.")
    streaming: bool = _flag(
        False,
        "Read the data shard by shard as it comes, from the disk or a network; --max_steps says "
        "when to end.",
    )
    image_folder: str | None = _flag(
        None, "Where the image paths begin. Left out: the folder of --data_path."
    )
    eval_data_path: str | None = _flag(
        None,
        "Samples to measure the run on while it trains; when, --eval_strategy says.",
    )
    eval_image_folder: str | None = _flag(
        None, "Where their image paths begin. Left out: the folder of --eval_data_path."
    )
    eval_num_generations: int = _flag(
        0,
        "Of how many of them the first question is answered too, with the images in it, and "
        "compared with its answer.",
    )
    eval_benchmarks: str | None = _flag(
        None,
        "Benchmarks that every checkpoint answers, as python -m mgm.eval names them, with commas "
        "between; their scores go into the log. Other processes wait: --ddp_timeout has to be "
        "longer.",
    )
    eval_benchmark_dir: str = _flag("data/MGM-Eval", "The folder of their files.")
    eval_benchmark_limit: int = _flag(0, "How many questions of each are asked; 0: all.")
    on_bad_sample: str = _flag(
        RAISE,
        "raise: a sample that cannot be used ends the run; skip: it is skipped, also of "
        f"--eval_data_path, and listed in {FILE} of the output folder.",
    )
    image_orientation: str = _flag(
        STORED,
        "stored: pixels as they are in the file, as released models were trained; upright: turned "
        "as EXIF data says, as chat and servers show images to the model.",
    )
    image_aspect_ratio: str | None = _flag(
        None, "pad (to a square) or square (crop the middle). Left out: square, or the folder's."
    )
    image_size_aux: int | None = _flag(
        None, "High-resolution pixels per side. Left out: 320, or the folder's."
    )
    image_grid: int | None = _flag(
        None, "Cells per side that CLIP sees; HD: 2. Left out: 1, or the folder's."
    )
    image_global: bool | None = _flag(
        None,
        "Whether CLIP also sees the whole image (HD). Left out: no, or the folder's.",
        **_SWITCH,
    )
    lazy_preprocess: bool = _flag(True, "Samples are prepared when they are needed; always true.")
    is_multimodal: bool = _flag(True, "The samples decide it; always true.")
    image_grid_pinpoints: str | None = _flag(None, "Refused: published, but never used.")


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """How it is trained: transformers' own flags, with the published ones and their old names."""

    _argument_group_name = "training"

    output_dir: str | None = _flag("", "Where checkpoints and the trained model go.")
    model_max_length: int | None = _flag(
        None, "Positions of a sample, image positions included. Left out: 512, or the folder's."
    )
    # In the order that transformers' parser of flags understands.
    report_to: None | str | list[str] = _flag(  # noqa: RUF009, RUF036
        None,
        "Where curves go: tensorboard, wandb, another that transformers knows, or none. Left out: "
        "tensorboard, if it is installed.",
    )
    attn_implementation: str | None = _flag(
        None,
        "Attention: sdpa, flash_attention_2 (package flash-attn, on a GPU), flex_attention or "
        "eager. Left out: sdpa.",
    )
    group_by_modality_length: bool = _flag(
        False, "Batches of samples with images or without, of similar lengths."
    )
    group_by_length: bool = _flag(
        False,
        "Batches of nearly one length, image positions included, with images or without.",
    )
    packing: bool = _flag(
        False,
        "Several samples in one row of --model_max_length positions, which see themselves alone; "
        "a batch is that many rows.",
    )
    mm_projector_lr: float | None = _flag(None, "Learning rate of the projector.")
    lr_multi: str | None = _flag(
        None,
        "Factors on the learning rate by part of the published parameter name, such as "
        "'model.mm_projector:2,model.vlm_uni:2'.",
    )
    warmup_ratio: float = _flag(
        0.0, "Part of all steps, below 1, in which the learning rate rises."
    )
    evaluation_strategy: str | None = _flag(None, "Old name of --eval_strategy.")
    optim: str = _flag("adamw_torch", "Optimizer; adamw_torch_fused is quicker.")
    remove_unused_columns: bool = _flag(False, "Refused: samples hold what the model takes.")
    logging_steps: float = _flag(10, "Steps between two reports of the loss.")
    cache_dir: str | None = _flag(None, "Refused: set the environment variable HF_HOME.")
    mpt_attn_impl: str = _flag("triton", "Refused: MPT is no language model of Mini-Gemini.")
    bits: int = _flag(FULL, "Bits of the frozen language model beside a LoRA: 4, 8 or 16.")
    double_quant: bool = _flag(True, "Whether the scales of 4 bits are rounded too.")
    quant_type: str = _flag("nf4", "Numbers that 4 bits stand for: nf4 or fp4.")
    lora_enable: bool = _flag(False, "Train a LoRA beside the language model, which is frozen.")
    lora_r: int = _flag(64, "Rank of the LoRA.")
    lora_alpha: int = _flag(16, "The LoRA counts this by its rank.")
    lora_dropout: float = _flag(0.05, "Part of the LoRA's inputs that is left out at random.")
    lora_weight_path: str = _flag("", "Folder of an adapter to go on from.")
    lora_bias: str = _flag("none", "Biases to train too: none, all or lora_only.")
    fsdp: str | None = _flag(
        None,
        "full_shard: FSDP2, every process holds a part of each layer, of its gradients and of the "
        "optimizer's state. Left out: DDP, or --deepspeed.",
        **_SWITCH,
    )
    selective_checkpointing: bool = _flag(
        False,
        "With --gradient_checkpointing: outputs of matrix products and of attention stay, and only "
        "the cheap rest of a layer is computed again.",
    )
    use_dora: bool = _flag(False, "DoRA: also train the length of each row of the weights.")

    def __post_init__(self) -> None:
        self.use_fsdp = parse_fsdp(self.fsdp)
        self.fsdp = None  # transformers' own would be DDP on a CPU, without a word
        if self.use_fsdp and self.deepspeed:
            raise MGMError("--fsdp beside --deepspeed: both divide the model; choose one")
        if self.evaluation_strategy is not None:
            self.eval_strategy = self.evaluation_strategy
        if self.ddp_backend and "WORLD_SIZE" not in os.environ:
            logger.info("--ddp_backend %s: one process is alone, and needs none", self.ddp_backend)
            self.ddp_backend = None
        if self.report_to is None:
            self.report_to = "tensorboard" if find_spec("tensorboard") else "none"
        if self.warmup_ratio and not self.warmup_steps:
            self.warmup_steps = self.warmup_ratio
        if self.gradient_checkpointing and hasattr(self, "activation_checkpointing"):
            # transformers 5.23 renamed it, and warns about the published name, which it has again
            # afterwards: whoever asks looks there, in every transformers.
            self.activation_checkpointing = True
            self.gradient_checkpointing = None
        name = settings_label(self.deepspeed or "")
        if self.deepspeed is not None and self.deepspeed != "":
            if find_spec("deepspeed") is None:
                raise MGMError(
                    "--deepspeed: the package is not installed; pip install -e '.[train]'"
                )
            self.deepspeed = read_settings(self.deepspeed)
            set_single_process_env()
        if not torch.accelerator.is_available():
            if self.deepspeed:
                disable_shm_comm()
            # Or bf16 is refused, and memory pinned for a device that is not there.
            self.use_cpu = True
        if self.bf16 and self.use_cpu and not cpu_has_bfloat16():
            # Emulated, a step of the nano model took 60 s and more, in float32 5 s.
            logger.warning("--bf16 True: this CPU has no instructions for it; float32 is faster")
            self.bf16 = False
        if self.fp16 and self.use_cpu:
            raise MGMError(
                "--fp16 True: a CPU does not train in float16; leave it out (float32), or take "
                "--bf16 True where the CPU has instructions for it"
            )
        if self.tf32 and not torch.cuda.is_available():
            # The published scripts ask for it; only a GPU can, and elsewhere nothing is lost.
            logger.info("--tf32 True: there is no CUDA device here; float32 stays float32")
            self.tf32 = None
        settings = self.deepspeed
        super().__post_init__()
        if isinstance(settings, dict):
            check_settings(settings, self, name)

    @property
    def order_seed(self) -> int:
        """Of what is drawn of the data."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def is_zero3(self) -> bool:
        """Whether DeepSpeed divides the weights too."""
        settings = getattr(self, "hf_deepspeed_config", None)  # there is none without --deepspeed
        return settings is not None and settings.is_zero3()

    @property
    def loads_on_rank0(self) -> bool:
        """Whether the first process alone reads the weights, of which the others get parts."""
        return self.use_fsdp or (self.is_zero3 and self.bits == FULL)

    @property
    def n_gpu(self) -> int:
        """One device trains, even where several are seen."""
        return min(super().n_gpu, 1)
