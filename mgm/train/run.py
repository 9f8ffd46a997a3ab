"""A training run: builds model, data and trainer from the arguments, trains and saves."""

import logging
from pathlib import Path
from typing import Any

from mgm.atomic import write_errors
from mgm.data.datasets.streaming import StreamedDataset, stream_file
from mgm.data.sources.bad_samples import (
    BAD_SAMPLES_FILE,
    SKIP,
    BadSamples,
    count_kinds,
    nothing_usable,
)
from mgm.errors import MGMError, one_line
from mgm.model.files.hub import checkpoint_folder
from mgm.model.files.json_file import read_json
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.train.args.arguments import DataArguments, ModelArguments, TrainingArguments
from mgm.train.args.validation import Arguments
from mgm.train.callbacks.benchmark import BenchmarkCallback
from mgm.train.callbacks.loss_plot import plot_losses
from mgm.train.callbacks.warmup_profile import WarmupProfileCallback
from mgm.train.checkpointing.checkpoints import (
    checkpoint_to_resume,
    prepare_output_dir,
    set_aside_earlier_runs,
)
from mgm.train.checkpointing.finished import has_all_steps, save_from_checkpoint
from mgm.train.checkpointing.initial_weights import check_initial_weights
from mgm.train.checkpointing.resume_files import check_resume_files
from mgm.train.checkpointing.run_fingerprint import (
    Fingerprint,
    check_fingerprint,
    check_flags,
    fingerprint_of,
    fingerprint_of_flags,
)
from mgm.train.data_setup import DataModule
from mgm.train.distributed.collectives import broadcast_from_rank0, check_on_all_ranks
from mgm.train.distributed.process_errors import data_loader_errors
from mgm.train.lora.adapter import TrainedAdapter, check_base_model, inject_adapter, load_adapter
from mgm.train.model_setup import base_model_errors, build_model_and_processor
from mgm.train.optim.freezing import describe_trainable, set_trainable
from mgm.train.trainer import MGMTrainer

logger = logging.getLogger("mgm.train")


def train(arguments: Arguments) -> MGMTrainer:
    """Build model, data and trainer, train, and save the model.

    Args:
        arguments: arguments of the model, of the data and of training.

    Returns:
        The trainer, with the trained `model` and its `state`.

    Raises:
        MGMError: a user error in the arguments, the data or a folder, or a full disk.
    """
    model_flags, data_flags, training = arguments
    check_initial_weights(arguments)
    with training.main_process_first(local=False, desc="output folder"):
        output = prepare_output_dir(str(training.output_dir))
    checkpoint = check_on_all_ranks(lambda: _checked_checkpoint(arguments, output))
    if training.lora_enable:
        _check_adapter_base(model_flags, training, checkpoint)
    model, processor = build_model_and_processor(
        arguments, None if training.lora_enable else checkpoint
    )
    bad_samples = None
    if data_flags.on_bad_sample == SKIP:
        bad_samples = BadSamples(
            output / BAD_SAMPLES_FILE, training.process_index == 0, deferred=True
        )
    data = DataModule.from_arguments(arguments, model, processor, bad_samples)
    set_trainable(model, model_flags, training.lora_enable)
    adapter = _build_adapter(model, model_flags, training, checkpoint)
    data.check_images(model)
    stage = "stage 1" if model_flags.tune_mm_mlp_adapter else "stage 2"
    logger.info("%s: %s, template %s", stage, data.description, processor.conversation)
    logger.info("%s", describe_trainable(model))
    fingerprint = broadcast_from_rank0(
        lambda: _checked_fingerprint(arguments, model, processor, data, checkpoint)
    )
    if checkpoint is not None:
        logger.info("resuming from %s", checkpoint)
        _resume_stream(data, training, checkpoint)
    trainer = _build_trainer(
        arguments,
        adapter=adapter,
        fingerprint=fingerprint,
        model=model,
        train_dataset=data.train_dataset,
        data_collator=data.collate_fn,
        validation_set=data.validation_set,
        processing_class=processor,
    )
    if not data_flags.streaming:
        trainer.add_callback(WarmupProfileCallback(trainer))
    if data_flags.eval_benchmarks:
        _benchmark_callback(data_flags, training).attach(trainer)
    trained = _train(trainer, checkpoint, bad_samples)
    _report(trainer, data, bad_samples)
    _save(trainer, None if trained else checkpoint)
    return trainer


def _train(trainer: MGMTrainer, checkpoint: Path | None, bad_samples: BadSamples | None) -> bool:
    """Train the remaining steps; before the first, move files of earlier runs aside.

    Returns:
        Whether any step was left.
    """
    output = Path(str(trainer.args.output_dir))

    def begin() -> None:
        set_aside_earlier_runs(output, checkpoint, (BAD_SAMPLES_FILE,))
        if bad_samples is not None:
            bad_samples.open_file()

    try:
        with write_errors(output), data_loader_errors():  # callbacks write there too
            return trainer.train_from(checkpoint, begin)
    finally:
        trainer.progress.close()


def _build_adapter(
    model: MGMForConditionalGeneration,
    flags: ModelArguments,
    training: TrainingArguments,
    checkpoint: Path | None,
) -> TrainedAdapter | None:
    """Inject the LoRA, if one is trained, and load weights of a checkpoint or another adapter."""
    if not training.lora_enable:
        return None
    adapter = inject_adapter(model, training, str(flags.model_name_or_path))
    if checkpoint is not None or training.lora_weight_path:
        load_adapter(model, checkpoint or Path(training.lora_weight_path), training)
    return adapter


def _resume_stream(data: DataModule, training: TrainingArguments, checkpoint: Path) -> None:
    """Resume a stream after the last sample that the checkpoint was trained on."""
    if isinstance(data.train_dataset, StreamedDataset):
        data.train_dataset.load_state_dict(
            read_json(stream_file(checkpoint, training.process_index))
        )
        training.ignore_data_skip = True  # the stream skips samples itself


def _benchmark_callback(flags: DataArguments, training: TrainingArguments) -> BenchmarkCallback:
    """The callback that evaluates checkpoints on the benchmarks of `--eval_benchmarks`.

    Raises:
        MGMError: there is no such benchmark, or its data is missing; on rank 0 only.
    """
    names = str(flags.eval_benchmarks).split(",")
    callback = BenchmarkCallback(names, flags.eval_benchmark_dir, flags.eval_benchmark_limit)
    if training.process_index == 0:
        callback.check()
    return callback


def _checked_checkpoint(arguments: Arguments, output: Path) -> Path | None:
    """The checkpoint to resume from, if any, after a check of its flags and files."""
    _, data_flags, training = arguments
    checkpoint = checkpoint_to_resume(training.resume_from_checkpoint, output)
    if checkpoint is not None:
        check_flags(fingerprint_of_flags(arguments), checkpoint)
        finished = has_all_steps(checkpoint, training)
        check_resume_files(checkpoint, training, data_flags.streaming, finished)
    return checkpoint


def _checked_fingerprint(
    arguments: Arguments, model: Any, processor: Any, data: DataModule, checkpoint: Path | None
) -> Fingerprint:
    """The fingerprint of this run, checked against the checkpoint that it resumes from, if any."""
    eval_items = None if data.validation_set is None else data.validation_set.samples
    fingerprint = fingerprint_of(arguments, model, processor, data.train_dataset, eval_items)
    if checkpoint is not None:
        check_fingerprint(fingerprint, checkpoint)
    return fingerprint


def _check_adapter_base(
    flags: ModelArguments, training: TrainingArguments, checkpoint: Path | None
) -> None:
    """Refuse a run that would overwrite its adapter's base model, or that has another base."""
    adapter = Path(training.lora_weight_path) if training.lora_weight_path else None
    base = checkpoint_folder(flags.model_name_or_path)
    with base_model_errors():
        check_base_model(base, Path(str(training.output_dir)), checkpoint, adapter)


def _report(trainer: MGMTrainer, data: DataModule, bad_samples: BadSamples | None) -> None:
    """Log counts of truncated and skipped samples, and of steps without a label.

    Raises:
        MGMError: no step had a usable sample.
    """
    bad = [] if bad_samples is None else bad_samples.entries()
    if bad and trainer.steps_without_loss and not trainer.steps_with_loss:
        raise nothing_usable(data.samples.path, bad)
    data.collator.report()
    if trainer.steps_without_loss:
        steps = trainer.steps_without_loss + trainer.steps_with_loss
        logger.warning("%d of %d steps had no usable sample", trainer.steps_without_loss, steps)
    if bad_samples is not None and bad:
        logger.warning(
            "%d bad samples were skipped (%s); %s lists them",
            *(len(bad), count_kinds(bad), bad_samples.file),
        )


def _save(trainer: MGMTrainer, finished: Path | None) -> None:
    """Write the trained model into the output folder.

    Args:
        trainer: trainer of the run.
        finished: the checkpoint that already had all steps; None: this process trained some.
    """
    output = Path(str(trainer.args.output_dir))
    if finished is None:
        trainer.save_model()
        logger.info("saved %s", output)
    elif trainer.args.should_save:
        adapter = trainer.adapter and trainer.adapter.config
        save_from_checkpoint(finished, output, trainer.processing_class, adapter)
    if trainer.args.process_index == 0:
        plot_losses(trainer.state.log_history, output)


def _build_trainer(arguments: Arguments, **parts: Any) -> MGMTrainer:
    """The trainer; errors of transformers (a missing package, a device) are user errors."""
    model_flags, _, training = arguments
    try:
        return MGMTrainer(stage1=model_flags.tune_mm_mlp_adapter, args=training, **parts)
    except (ValueError, ImportError, RuntimeError) as error:
        if isinstance(error, MGMError):
            raise
        raise MGMError(one_line(error)) from error
