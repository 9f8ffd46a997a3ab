"""`python -m mgm.train`: train a Mini-Gemini, stage 1 or stage 2."""

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from transformers import TrainerState
from transformers.utils import logging as transformers_logging

from mgm.atomic import WriteErrors
from mgm.data.collator import Collator
from mgm.data.mixture import read_mixture
from mgm.data.packing import PackedCollator
from mgm.data.processor import MGMProcessor
from mgm.data.quarantine import FILE, SKIP, Quarantine
from mgm.errors import MGMError, one_line, run_command
from mgm.model.deepspeed_log import quiet_deepspeed
from mgm.model.mgm import MGMForConditionalGeneration
from mgm.train.adapter import add_adapter, load_adapter
from mgm.train.arguments import TrainingArguments
from mgm.train.checkpoints import STATE_FILE, checkpoint_to_resume, prepare_output
from mgm.train.curves import draw_curves
from mgm.train.dataset import TrainingDataset
from mgm.train.flags import Arguments, parse
from mgm.train.mixed_dataset import MixedDataset
from mgm.train.packed_dataset import PackedDataset
from mgm.train.run_facts import check_facts, facts_of, is_finished
from mgm.train.starting_point import starting_point
from mgm.train.trainable import describe_trainable, set_trainable
from mgm.train.trainer import MGMTrainer
from mgm.train.trial import Trial

logger = logging.getLogger("mgm.train")


def main() -> None:
    """Train as the command line says."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    first = os.environ.get("RANK", "0") == "0"
    logging.getLogger("mgm").setLevel(logging.INFO if first else logging.WARNING)
    quiet_deepspeed()
    transformers_logging.disable_progress_bar()  # of loading and saving; training has its own
    run()


def run(words: Sequence[str] | None = None) -> MGMTrainer:
    """Train, and save the model.

    Args:
        words: the command line's flags and values; None: those of this program.

    Returns:
        The trainer, whose `model` and `state` tell what came of it.

    Raises:
        MGMError: a fault in the flags, the data or a folder, or a full disk.
    """
    arguments = parse(words)
    model_flags, data_flags, training = arguments
    with training.main_process_first(local=False, desc="output folder"):
        output = prepare_output(str(training.output_dir))
    checkpoint = checkpoint_to_resume(training.resume_from_checkpoint, output)
    adapted = training.lora_enable
    model, processor = starting_point(arguments, None if adapted else checkpoint)
    quarantine = None
    if data_flags.bad_samples == SKIP:
        quarantine = Quarantine(output / FILE, training.process_index == 0, checkpoint is None)
    dataset = _open_data(arguments, processor, quarantine)
    set_trainable(model, model_flags, adapted)
    adapter = None
    if adapted:
        adapter = add_adapter(model, training, str(model_flags.model_name_or_path))
        if checkpoint is not None or training.lora_weight_path:
            load_adapter(model, checkpoint or Path(training.lora_weight_path))
    _check_images(model, dataset)
    stage = "stage 1" if model_flags.tune_mm_mlp_adapter else "stage 2"
    logger.info("%s: %d samples, template %s", stage, len(dataset), processor.conversation)
    logger.info("%s", describe_trainable(model))
    if checkpoint is not None:
        logger.info("going on from %s", checkpoint)
    collator = replace(Collator.of(processor, model.config.model_max_length), label=dataset.label)
    rows: PackedDataset | None = None
    if training.packing:
        if model.config.model_max_length is None:
            raise MGMError("--packing needs --model_max_length, the positions of a row")
        rows = PackedDataset(dataset, model.config.model_max_length, _seed(training))
    if checkpoint is not None:
        check_facts(facts_of(training, rows or dataset), checkpoint)
    trainer = _trainer(
        arguments,
        adapter=adapter,
        model=model,
        train_dataset=rows or dataset,
        data_collator=PackedCollator(collator) if rows else collator,
        processing_class=processor,
    )
    if quarantine is None:  # or what is bad would be listed twice
        trainer.add_callback(Trial(trainer))
    try:
        with WriteErrors(output):  # by whoever writes there: curves, reports
            _train(trainer, checkpoint)
    except MGMError as error:
        raise _without_traceback(error) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise MGMError(
            f"{one_line(error)}: a process that prepares samples died, most often for want of "
            "memory; take fewer with --dataloader_num_workers"
        ) from error
    except ImportError as error:  # of an optimizer or a kernel that a flag asks for
        raise MGMError(f"{one_line(error)}; or pip install -e '.[train]'") from error
    except ValueError as error:
        if checkpoint is None or "parameter group" not in str(error):
            raise
        raise MGMError(
            f"{checkpoint}: was made with other flags, which train other parameters; "
            "repeat those, or choose another --output_dir"
        ) from error
    finally:
        trainer.progress.close()
    collator.report()
    if quarantine is not None and (left := int(quarantine.count)):
        logger.warning("%d samples could not be used; %s lists them", left, quarantine.file)
    trainer.save_model()
    if training.process_index == 0:
        draw_curves(trainer.state.log_history, output)
    logger.info("saved %s", output)
    return trainer


def _open_data(
    arguments: Arguments, processor: MGMProcessor, quarantine: Quarantine | None
) -> TrainingDataset | MixedDataset:
    """One data file, or those that a mixture names."""
    _, data, training = arguments
    path = Path(data.data_path)
    sources = read_mixture(path)
    if sources is None:
        return TrainingDataset(path, processor, data.image_folder, quarantine)
    return MixedDataset(path, sources, processor, data.image_folder, quarantine, _seed(training))


def _seed(training: TrainingArguments) -> int:
    """Of what is drawn of the data."""
    return training.seed if training.data_seed is None else training.data_seed


def _train(trainer: MGMTrainer, checkpoint: Path | None) -> None:
    """Train from the beginning or from a checkpoint, if there is anything left to do."""
    if checkpoint is None:
        trainer.train()
        return
    state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
    if is_finished(state, trainer.args):
        logger.info("all %d steps were done; nothing is left but saving", state.global_step)
        trainer.state = state
        return
    trainer.train(resume_from_checkpoint=str(checkpoint))


def _check_images(
    model: MGMForConditionalGeneration, dataset: TrainingDataset | MixedDataset
) -> None:
    """Find out before the first step whether samples with and without images can be learned."""
    with_image = int((dataset.image_counts > 0).sum())
    limit, length = model.config.model_max_length, dataset.processor.image_tokens_per_image
    if with_image and limit is not None and limit <= length:
        raise MGMError(
            f"model_max_length is {limit}, but one image takes {length} positions; allow more"
        )
    without = len(dataset) - with_image
    if not without or any(part.requires_grad for part in model.language_model.parameters()):
        return
    if not with_image:
        raise MGMError(
            f"{dataset.path}: no sample has an image, and the language model is not trained; "
            "keep samples without image for stage 2"
        )
    logger.warning(
        "%d of %d samples have no image and teach nothing, for the language model is not trained",
        without,
        len(dataset),
    )


def _trainer(arguments: Arguments, **parts: object) -> MGMTrainer:
    """The trainer; what transformers refuses (a missing package, a device) is the user's fault."""
    model_flags, _, training = arguments
    try:
        return MGMTrainer(stage1=model_flags.tune_mm_mlp_adapter, args=training, **parts)
    except (ValueError, ImportError, RuntimeError) as error:
        if isinstance(error, MGMError):
            raise
        raise MGMError(one_line(error)) from error


def _without_traceback(error: MGMError) -> MGMError:
    """The error as it was before a worker process of the data loader wrapped it."""
    text = str(error)
    if "in DataLoader worker process" not in text:
        return error
    return MGMError(text.rsplit("MGMError: ", 1)[-1].strip())


if __name__ == "__main__":
    run_command(main)
