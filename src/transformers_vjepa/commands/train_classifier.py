"""The command `vjepa train_classifier`; with `--dry_run` it prints what the run would do."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack

import torch

from ..command_line.parsing import MISTAKES, names_given, user_errors
from ..data.clip_loader import WorkersLostError
from ..data.clip_reading import TooManyBrokenVideosError
from ..data.lanes import StreamError
from ..evaluation.arguments import parse_arguments
from ..evaluation.setup import build, class_names, classifier_config, load_config, open_splits, place_synthetic_corpus
from ..evaluation.shards import ShardError
from ..evaluation.trainer import UnusableSplitError, VJEPAClassificationTrainer
from ..models.vjepa.modeling_vjepa import VJEPAForVideoClassification
from ..safety.output_lock import output_lock
from ..training.checkpoints import UnusableCheckpointError
from ..training.memory import training_memory
from ..training.progress import no_bars
from ..training.stream_trainer import DivergedError
from .dry_run import bytes_text, check_writable, classifier_rows, corpus_rows, memory_text, table

# Errors that end a run with one line: the user has to correct something other than the command line.
_FAULTS = (
    UnusableCheckpointError,
    DivergedError,
    ShardError,
    StreamError,
    TooManyBrokenVideosError,
    UnusableSplitError,
    WorkersLostError,
)


def describe(argv: Sequence[str]) -> str:
    """What a command line would do (`--dry_run`). Nothing is trained or written."""
    parsed = parse_arguments(argv)
    check_writable(parsed.training.output_dir)
    config = load_config(parsed)
    (arguments, data, training), synthetic = place_synthetic_corpus(parsed)
    corpora = open_splits(data)
    names = class_names(data, corpora, synthetic)
    config = classifier_config(arguments, config, names)
    with torch.device("meta"):
        model = VJEPAForVideoClassification(config)
    epoch = training.lay_out_steps(num_clips=len(corpora["train"]), has_validation="validation" in corpora)
    finetune = arguments.mode == "finetune"
    batch_size = training.per_device_train_batch_size
    rows = classifier_rows(model)
    if finetune:
        shape = (batch_size, config.frames_per_clip, config.in_chans, config.crop_size, config.crop_size)
        memory = training_memory(
            lambda: type(model)(config), lambda network, mode: network(torch.empty(shape)), bf16=training.bf16
        )
        rows.append(("memory", memory_text(memory)))
    clips = batch_size * training.gradient_accumulation_steps * training.world_size
    kind = "images" if config.is_image_model else "clips"
    steps = f"{training.max_steps:,} of {clips} {kind}, {epoch:,} per epoch; evaluation every {training.save_steps:,}"
    rows.append(("steps", steps))
    if not finetune:
        rates, decays = (" ".join(map(str, values)) for values in (training.learning_rates, training.weight_decays))
        rows.append(("probes", f"learning rates {rates}, each with the weight decays {decays}"))
        if not data.augment:
            tokens = 1 if config.pooling == "mean" else config.num_patches
            size = getattr(torch, data.feature_dtype).itemsize * tokens * data.num_segments * config.hidden_size
            total = sum(map(len, corpora.values())) * size * data.num_views
            rows.append(("features", f"{bytes_text(total)} on disk, in {training.output_dir}/features"))
    return table([*rows, *corpus_rows(corpora, config=model.config), ("output", str(training.output_dir))])


def run(argv: Sequence[str]) -> VJEPAClassificationTrainer | None:
    """One training run from its command line; with `--dry_run` prints what it would do, and returns `None`."""
    if "dry_run" in names_given(argv):
        with user_errors(*MISTAKES, TooManyBrokenVideosError):
            print(describe(argv))
        return None
    with ExitStack() as stack:
        with user_errors(*MISTAKES, TooManyBrokenVideosError):
            arguments = parse_arguments(argv)
            stack.enter_context(output_lock(arguments.training.output_dir))
            job = build(*arguments)
        trainer = job.trainer
        with user_errors(*_FAULTS):
            job.train()
            if not trainer.stop_signal:
                with no_bars(wanted=trainer.args.disable_tqdm):
                    summary = job.finish()
        if trainer.is_world_process_zero():
            if trainer.stop_signal:
                print("stopped by a signal; continue with the same command and --resume_from_checkpoint auto")
            else:
                trainer.finish()
                if trainer.commit_url:
                    print(f"pushed:   {trainer.commit_url}")
                print(summary)
    return trainer


def main() -> None:
    trainer = run(sys.argv[1:])
    if trainer and trainer.stop_signal:
        sys.exit(128 + trainer.stop_signal)  # as shells report the end by a signal
