"""Policy of every training flag for a resumed run: refuse a change, log it, or ignore it.

A flag that decides the trained weights must not change when a run is resumed; one that decides
speed, or what is saved and evaluated, may, and is logged; others are not compared.
`tests/train/checkpointing/test_flag_policy.py` fails for a flag without a policy.
"""

from enum import Enum

from mgm.train.args.validation import UNSUPPORTED_FLAGS


class Policy(Enum):
    """The action of a resumed run for a flag whose value has changed."""

    REFUSE = "decides the result: the run does not resume"
    CONFIG = "as REFUSE, for the field of the model's config that the flag sets"
    CONTENT = "a path: the content decides the result and is compared by digest"
    LENGTH = "the length of the run: accepted, and the learning rate is logged"
    LOG = "does not decide the weights: accepted and logged"
    IGNORE = "has no effect on the result: accepted"


# Flags that set a field of the model's config or of the processor.
CONFIG_FLAGS = {
    "version": "conversation",
    "model_max_length": "model_max_length",
    "image_aspect_ratio": "image_aspect_ratio",
    "image_size_aux": "image_size_aux",
    "image_grid": "image_grid",
    "image_global": "image_global",
    "fusion": "fusion",
    "mm_projector_type": "projector_type",
    "mm_vision_select_layer": "vision_feature_layer",
    "mm_vision_select_feature": "vision_feature_select",
}

_REFUSE = """
    tune_mm_mlp_adapter freeze_mm_mlp_adapter freeze_backbone optimize_vision_tower
    optimize_vision_tower_aux drop_path
    data_config data_split streaming image_orientation
    per_device_train_batch_size gradient_accumulation_steps average_tokens_across_devices
    group_by_modality_length group_by_length packing seed data_seed dataloader_drop_last
    dataloader_in_order accelerator_config
    learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps mm_projector_lr lr_multi
    optim optim_args optim_target_modules weight_decay adam_beta1 adam_beta2 adam_epsilon
    max_grad_norm neftune_noise_alpha
    bf16 fp16 bits double_quant quant_type
    lora_enable lora_r lora_alpha lora_dropout lora_bias use_dora
"""
_CONTENT = """
    model_name_or_path vision_tower vision_tower_aux pretrain_mm_mlp_adapter lora_weight_path
    data_path image_folder eval_data_path eval_image_folder fsdp deepspeed
"""
_LENGTH = "max_steps num_train_epochs"
# Rounding errors, memory and speed; what is saved, evaluated and logged.
_LOG = """
    on_bad_sample eval_num_generations eval_benchmarks eval_benchmark_dir eval_benchmark_limit
    eval_strategy eval_steps eval_delay per_device_eval_batch_size eval_on_start
    bf16_full_eval fp16_full_eval
    tf32 attn_implementation use_liger_kernel liger_kernel_config torch_compile
    torch_compile_backend torch_compile_mode gradient_checkpointing gradient_checkpointing_kwargs
    selective_checkpointing
    full_determinism use_cpu use_cache ignore_data_skip
    save_strategy save_steps save_total_limit save_only_model
    logging_strategy logging_steps logging_first_step
"""
_IGNORE = """
    output_dir report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id
    log_on_each_node logging_nan_inf_filter include_num_input_tokens_seen log_level
    log_level_replica disable_tqdm prediction_loss_only eval_do_concat_batches
    eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics
    save_on_each_node enable_jit_checkpoint hub_token hub_private_repo hub_model_id hub_strategy
    hub_always_push hub_revision metric_for_best_model greater_is_better
    restore_callback_states_from_checkpoint torch_empty_cache_steps
    dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers
    dataloader_prefetch_factor dataloader_multiprocessing_context
    label_names length_column_name ddp_find_unused_parameters ddp_bucket_cap_mb
    ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout debug skip_memory_metrics
    activation_checkpointing activation_checkpointing_kwargs
    do_train do_eval resume_from_checkpoint local_rank warmup_ratio evaluation_strategy
"""

FLAG_POLICIES = {
    **dict.fromkeys(UNSUPPORTED_FLAGS, Policy.IGNORE),  # always the default
    **dict.fromkeys(CONFIG_FLAGS, Policy.CONFIG),
    **dict.fromkeys(_REFUSE.split(), Policy.REFUSE),
    **dict.fromkeys(_CONTENT.split(), Policy.CONTENT),
    **dict.fromkeys(_LENGTH.split(), Policy.LENGTH),
    **dict.fromkeys(_LOG.split(), Policy.LOG),
    **dict.fromkeys(_IGNORE.split(), Policy.IGNORE),
}
